"""Debezium's connector for PostgreSQL and its JDBC sink, both in one Kafka Connect.

Settings for throughput, as its documentation names them. One topic a table with one partition, and one task of
the sink: the rows of a table come in the leader's order, as with the others.
"""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import psycopg
from confluent_kafka.admin import NewTopic

from cdc.local.kafka_choice import java_for_kafka
from cdc.local.ports import free_port
from cdc.local.processes import end_child, start_child, tail_of
from tests.benchmarks import processes
from tests.benchmarks.engines.debezium_archives import archives
from tests.benchmarks.engines.engine import Engine
from tests.benchmarks.processes import Processes
from tests.benchmarks.report import NoResult
from tests.benchmarks.servers import Databases, Servers

HEAP = "3g"
_WAIT_SECONDS = 120.0
_LOG4J = """\
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{ISO8601} %-5p %c{1}: %m%n
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
"""
_CONVERTER = "org.apache.kafka.connect.json.JsonConverter"
_WORKER = {
    "key.converter": _CONVERTER,
    "value.converter": _CONVERTER,
    "connector.client.config.override.policy": "All",
    "producer.compression.type": "lz4",
    "producer.linger.ms": "50",
    "producer.batch.size": str(2**20),
}
_SOURCE = {
    "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
    "tasks.max": "1",
    "plugin.name": "pgoutput",
    "publication.autocreate.mode": "disabled",
    "snapshot.mode": "no_data",
    "max.batch.size": "20000",
    "max.queue.size": "100000",
    "poll.interval.ms": "50",
    "tombstones.on.delete": "false",
}
_SINK = {
    "connector.class": "io.debezium.connector.jdbc.JdbcSinkConnector",
    "tasks.max": "1",
    "insert.mode": "upsert",
    "primary.key.mode": "record_key",
    "delete.enabled": "true",
    "schema.evolution": "none",
    "use.reduction.buffer": "true",
    "dialect.postgres.unnest.insert.enabled": "true",
    "batch.size": "5000",
    "consumer.override.max.poll.records": "5000",
}
_TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
_BACKENDS = "SELECT pid FROM pg_stat_activity WHERE datname = '{name}' AND application_name LIKE '%JDBC%'"


class Debezium(Engine):
    """A Kafka Connect of its own in each run."""

    name = "debezium"
    warm_up_rows = 400_000

    def __init__(self, servers: Servers, databases: Databases) -> None:
        super().__init__(servers, databases)
        self._folder = servers.folder / databases.name
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        name = self.databases.name
        with psycopg.connect(self.databases.leader, autocommit=True) as connection:
            connection.execute(f"CREATE PUBLICATION {name} FOR TABLES IN SCHEMA public".encode())
            tables = [table for (table,) in connection.execute(_TABLES.encode()).fetchall()]
        topics = [f"{name}.public.{table}" for table in tables]
        admin = self.servers.admin()
        for made in admin.create_topics([NewTopic(topic, 1, 1) for topic in topics]).values():
            made.result(timeout=30)
        self._start_connect()
        # The tasks' own clients must not meet a source that sends before the sink reads.
        self._make("sink", {**_SINK, "topics": ",".join(topics), **self._sink_place()})
        self._make("source", {**_SOURCE, "topic.prefix": name, "slot.name": name, "publication.name": name,
                              **self._source_place()})  # fmt: skip
        self.helpers()

    def _start_connect(self) -> None:
        found, java = archives(), java_for_kafka()
        self._folder.mkdir()
        worker = {
            **_WORKER,
            "bootstrap.servers": self.servers.kafka.bootstrap_servers,
            "listeners": f"http://127.0.0.1:{self._port}",
            "plugin.path": str(found.plugins),
            "offset.storage.file.filename": str(self._folder / "offsets"),
        }
        properties, log4j = self._folder / "worker.properties", self._folder / "log4j2.properties"
        properties.write_text("".join(f"{key}={value}\n" for key, value in worker.items()))
        log4j.write_text(_LOG4J)
        self._process = start_child(
            [java.binary, f"-Xmx{HEAP}", f"-Dlog4j2.configurationFile={log4j.as_uri()}", "-cp", f"{found.libs}/*",
             "org.apache.kafka.connect.cli.ConnectStandalone", properties],
            output=self._log, folder=self._folder,
        )  # fmt: skip
        self._until("Kafka Connect answers", lambda: self._ask("GET", "/")[0] == http.client.OK)

    @property
    def _log(self) -> Any:
        return self._folder / "connect.log"

    def _source_place(self) -> dict[str, str]:
        place = urlsplit(self.databases.leader)
        return {
            "database.hostname": str(place.hostname),
            "database.port": str(place.port),
            "database.user": str(place.username),
            "database.password": str(place.username),
            "database.dbname": place.path.lstrip("/"),
        }

    def _sink_place(self) -> dict[str, str]:
        place = urlsplit(self.databases.followers[0])
        return {
            "connection.url": f"jdbc:postgresql://{place.hostname}:{place.port}{place.path}",
            "connection.username": str(place.username),
            "connection.password": str(place.username),
            "collection.name.format": "${source.table}",
        }

    def _make(self, name: str, settings: Mapping[str, str]) -> None:
        code, said = self._ask("POST", "/connectors", {"name": name, "config": settings})
        if code != http.client.CREATED:
            raise NoResult(f"Kafka Connect does not take the {name}: {said}")
        self._until_state(name, "RUNNING")

    def daemons(self) -> Processes:
        return {"connect": [self._process.pid]} if self._process else {}

    def helpers(self) -> Processes:
        return {
            "walsender": processes.walsenders(self.databases.leader),
            "backend": processes.find(self.databases.followers[0], _BACKENDS.format(name=self.databases.name)),
            **self.servers.broker(),
        }

    def log_bytes(self) -> int | None:
        return self.servers.log_bytes(f"{self.databases.name}.")

    def close(self) -> None:
        if self._process:
            end_child(self._process, signal.SIGKILL, _WAIT_SECONDS)
        self.servers.delete_topics(f"{self.databases.name}.")

    def check(self) -> None:
        for name in ("source", "sink"):
            for state, trace in self._states(name):
                if state == "FAILED":
                    raise NoResult(f"Debezium's {name} failed: {_cause(trace)}")

    def _until_state(self, name: str, wanted: str) -> None:
        def reached() -> bool:
            self.check()
            states = self._states(name)
            return len(states) > 1 and all(state == wanted for state, _ in states)

        self._until(f"the {name} is {wanted}", reached)

    def _states(self, name: str) -> list[tuple[str, str]]:
        """Of the connector and its tasks, each with what it failed of."""
        code, said = self._ask("GET", f"/connectors/{name}/status")
        parts = [said["connector"], *said["tasks"]] if code == http.client.OK else []
        return [(part["state"], part.get("trace", "")) for part in parts]

    def _until(self, what: str, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _WAIT_SECONDS
        while not holds():
            ended = self._process is None or self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                raise NoResult(f"waited for: {what}. Its log ends with:\n{tail_of(self._log)}")
            time.sleep(0.05)

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, Any]:
        """The code and what was said; 0 when nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        try:
            content = json.dumps(body) if body is not None else None
            connection.request(method, path, content, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
            # While it starts it answers with a page for people.
            return answer.status, json.loads(text) if answer.status < http.client.BAD_REQUEST and text else text
        except OSError:
            return 0, None
        finally:
            connection.close()


def _cause(trace: str) -> str:
    """The line that names the innermost of the causes."""
    causes = [line for line in trace.splitlines() if line.startswith("Caused by: ")]
    return causes[-1].removeprefix("Caused by: ") if causes else trace.partition("\n")[0]
