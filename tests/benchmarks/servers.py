"""The servers of a measurement: a leader, followers and Kafka, all on this machine, with fresh databases a run."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka.admin import AdminClient

from cdc.local import KafkaServer, PostgresServer, find_kafka
from cdc.local.kafka import ProcessKafka
from tests.benchmarks.processes import Processes, on_cpus

SETTINGS = {
    "shared_buffers": "512MB",
    "max_wal_size": "8GB",
    "wal_sender_timeout": "1d",
    "wal_receiver_timeout": "0",
    "checkpoint_timeout": "30min",
}
"""Of every PostgreSQL. A process that is held while a backlog is made must not be taken for dead; a walsender without
any timeout looks for an answer after each message (`WalSndWriteData`), which is a tenth to a quarter of its work."""


@dataclass(frozen=True)
class Databases:
    """Names of one run's databases are its own; so are slots and topics."""

    name: str
    leader: str
    followers: tuple[str, ...]


@dataclass(frozen=True)
class Servers:
    leader: PostgresServer
    followers: tuple[PostgresServer, ...]
    kafka: KafkaServer
    folder: Path
    leader_cpus: set[int] | None
    """Those that the leader has for itself."""

    @property
    def programs(self) -> Path:
        """PostgreSQL's own."""
        return Path(self.leader.bin_dir)

    @property
    def description(self) -> list[str]:
        return [f"PostgreSQL {self.leader.version}", self.kafka.description]

    @contextmanager
    def databases(self, name: str) -> Iterator[Databases]:
        nodes = (self.leader, *self.followers)
        try:
            leader, *followers = [node.create_database(name) for node in nodes]
            yield Databases(name, leader, tuple(followers))
        finally:
            # The followers first: a subscription holds on to the leader's slot.
            for node in reversed(nodes):
                node.drop_database(name)

    def broker(self) -> Processes:
        return {"broker": [self.kafka.pid]} if isinstance(self.kafka, ProcessKafka) else {}

    def log_bytes(self, topics: str) -> int | None:
        """What the segments of all topics hold whose names begin so; None where the broker's files are not ours."""
        if not isinstance(self.kafka, ProcessKafka):
            return None
        data = self.kafka.log_path.parent / "data"
        return sum(segment.stat().st_size for segment in data.glob(f"{topics}*/*.log"))

    def admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.kafka.bootstrap_servers, "log_level": 0})

    def delete_topics(self, beginning: str) -> None:
        admin = self.admin()
        ours = [topic for topic in admin.list_topics(timeout=10).topics if topic.startswith(beginning)]
        for deleted in (admin.delete_topics(ours) if ours else {}).values():
            deleted.result(timeout=30)


@contextmanager
def servers(followers: int = 1, leader_cpus: set[int] | None = None) -> Iterator[Servers]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cdc-bench-")))
        with on_cpus(leader_cpus):
            leader = stack.enter_context(PostgresServer(settings=SETTINGS))
        others = [stack.enter_context(PostgresServer(settings=SETTINGS)) for _ in range(followers)]
        kafka = stack.enter_context(find_kafka(None))
        yield Servers(leader, tuple(others), kafka, folder, leader_cpus)
