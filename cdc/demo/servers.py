"""Three PostgreSQL servers and Kafka, started side by side."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from types import TracebackType
from typing import Self

import psutil
import psycopg
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from psycopg import sql

from cdc.demo.errors import Interrupted
from cdc.errors import CheckError
from cdc.local import KafkaServer, PostgresServer, find_kafka
from cdc.stop import StopToken

LEADER = "us-east"
FOLLOWERS = ("eu-west", "ap-south")
NODES = (LEADER, *FOLLOWERS)
DATABASE = "shop"
CLERK = "clerk"
"""The role of an application: may write where the database lets it."""

_GRANT_SECONDS = 30
_KAFKA_PATIENCE_SECONDS = 30
_GIVEN_KAFKA_SECONDS = 5

Tell = Callable[[str], None]


class Servers:
    """The machines of the group. What was started is gone after `close`, however far the start came."""

    def __init__(self, given_kafka: str | None) -> None:
        self._given_kafka = given_kafka
        self._kafka: KafkaServer | None = None
        self._clerk_password = secrets.token_urlsafe(12)
        self._topics: list[str] = []
        # Passwords, because others may be on this machine. No fsync: these data outlive their process, no more.
        self.postgres = {name: PostgresServer(authentication="scram-sha-256", fsync=False) for name in NODES}

    def start(self, stop: StopToken, tell: Tell) -> None:
        """Returns when all answer; raises Interrupted when `stop` is set meanwhile."""
        if self._given_kafka:
            _check_answers(self._given_kafka)
        tell("starting three PostgreSQL servers and Kafka")
        with ThreadPoolExecutor(len(NODES) + 1) as pool:
            starts = [pool.submit(self._start_kafka, tell)]
            starts += [pool.submit(self._start_postgres, name, tell) for name in NODES]
            _wait_for(starts, stop)

    def _start_postgres(self, name: str, tell: Tell) -> None:
        server = self.postgres[name].start()
        server.create_database(DATABASE)
        with psycopg.connect(server.dsn(), autocommit=True, connect_timeout=_GRANT_SECONDS) as connection:
            # Roles belong to a server and not to a database, so no bootstrap brings them.
            connection.execute(
                sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(
                    sql.Identifier(CLERK), sql.Literal(self._clerk_password)
                )
            )
        tell(f"{name}: PostgreSQL {server.version} is up")

    def _start_kafka(self, tell: Tell) -> None:
        self._kafka = find_kafka(self._given_kafka)
        tell(f"found {self._kafka.description}")
        self._kafka.start()
        tell("Kafka is up")

    @property
    def kafka(self) -> KafkaServer:
        assert self._kafka is not None, "not started"
        return self._kafka

    def dsn(self, name: str) -> str:
        """As the superuser, whom the daemons connect as."""
        return self.postgres[name].dsn(DATABASE)

    def clerk_dsn(self, name: str) -> str:
        return self.postgres[name].dsn(DATABASE, CLERK, self._clerk_password)

    @property
    def clients_dsn(self) -> str:
        """As applications connect: libpq looks for the node that takes writes."""
        servers = [self.postgres[name] for name in NODES]
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in servers)
        return f"postgresql://{CLERK}:{self._clerk_password}@{hosts}/{DATABASE}?target_session_attrs=read-write"

    def remove_at_the_end(self, topic: str) -> None:
        """Tidies a Kafka that was given and stays."""
        if not self.kafka.managed:
            self._topics.append(topic)

    def close(self) -> None:
        if self._topics and self._kafka:
            client = AdminClient({"bootstrap.servers": self._kafka.bootstrap_servers, "log_level": 0})
            wait(client.delete_topics(self._topics).values(), _KAFKA_PATIENCE_SECONDS)
        if self._kafka:
            self._kafka.close()
        for server in self.postgres.values():
            server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _check_answers(bootstrap_servers: str) -> None:
    """Before anything is started: a given Kafka runs already, or there is nothing to wait for."""
    try:
        AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 0}).list_topics(timeout=_GIVEN_KAFKA_SECONDS)
    except KafkaException as error:
        raise CheckError(
            f"Kafka does not answer ({error.args[0].name()})", "start it, or leave --kafka out", bootstrap_servers
        ) from error


def _wait_for(starts: list[Future[None]], stop: StopToken) -> None:
    waiting = set(starts)
    while waiting:
        done, waiting = wait(waiting, timeout=0.1, return_when=FIRST_COMPLETED)
        failed = [future for future in done if future.exception() is not None]
        if failed or stop.is_set():
            _hurry(waiting)
        if stop.is_set():
            raise Interrupted
        for future in failed:
            future.result()


def _hurry(starts: set[Future[None]]) -> None:
    """PostgreSQL is up in seconds; Kafka may be a minute's download away, and nobody waits for that now."""
    while starts:
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # it ended by itself meanwhile
                if not _is_of_postgres(child):
                    child.kill()
        _, starts = wait(starts, timeout=0.1)


def _is_of_postgres(process: psutil.Process) -> bool:
    """With the shells in which initdb runs servers: without its shell, one ends and leaves its shared memory."""
    return any(each.name() in ("postgres", "initdb") for each in (process, *process.parents()))
