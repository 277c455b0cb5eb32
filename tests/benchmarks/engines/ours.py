"""This project, by TCP and by Unix socket."""

from __future__ import annotations

from dataclasses import replace

from cdc.local.group import Group
from cdc.local.processes import tail_of
from tests.benchmarks import processes
from tests.benchmarks.engines.engine import Engine
from tests.benchmarks.processes import Processes
from tests.benchmarks.report import NoResult
from tests.benchmarks.servers import Databases, Servers

_BOOTSTRAP_SECONDS = 600.0
_BACKEND = "SELECT pid FROM pg_stat_activity WHERE application_name = '{name}'"


class Ours(Engine):
    """`cdc capture` and a `cdc apply` for each follower with their defaults, and Kafka between."""

    name = "cdc"
    needs_tables = False

    def __init__(self, servers: Servers, databases: Databases) -> None:
        super().__init__(servers, databases)
        folder = servers.folder / databases.name
        folder.mkdir()
        self._followers = [f"follower{number}" for number in range(len(databases.followers))]
        nodes = {"leader": databases.leader, **dict(zip(self._followers, databases.followers, strict=True))}
        self.group = Group(folder, databases.name, "leader", nodes, servers.kafka.bootstrap_servers)

    def start(self) -> None:
        self._must("init")
        for follower in self._followers:
            self._must("bootstrap", "--follower", follower)
        for daemon in self.names():
            self.start_daemon(daemon)

    def _must(self, *arguments: str) -> None:
        done = self.group.run(*arguments, seconds=_BOOTSTRAP_SECONDS)
        if done.returncode:
            raise NoResult(f"cdc {arguments[0]}: {done.stderr}")

    def names(self) -> list[str]:
        """Of its daemons."""
        return ["capture", *(f"apply {follower}" for follower in self._followers)]

    def start_daemon(self, name: str) -> None:
        self.group.start(*name.split())

    def daemons(self) -> Processes:
        capture, *appliers = [self.group.daemon(name).pid for name in self.names()]
        return {"capture": [capture], "apply": appliers}

    def check(self) -> None:
        for name in self.names():
            if self.group.daemon(name).poll() is not None:
                raise NoResult(f"cdc {name} has ended:\n{tail_of(self.group.log_of(name))}")

    def helpers(self) -> Processes:
        backends = [
            backend
            for follower, dsn in zip(self._followers, self.databases.followers, strict=True)
            for backend in processes.find(dsn, _BACKEND.format(name=f"cdc apply {follower}"))
        ]
        walsender = processes.walsenders(self.databases.leader)
        return {"walsender": walsender, "backend": backends, **self.servers.broker()}

    def log_bytes(self) -> int | None:
        return self.servers.log_bytes(f"{self.group.topic}-")

    def close(self) -> None:
        self.group.close()
        self.servers.delete_topics(self.group.topic)


class OursByUnixSocket(Ours):
    """The same where capture runs on the leader's machine and reaches it by its Unix socket."""

    name = "cdc-unix"

    def __init__(self, servers: Servers, databases: Databases) -> None:
        leader = servers.leader.socket_dsn(databases.name)
        if leader is None:
            raise NoResult(f"{self.name}: the path of temporary folders is too long for a socket, shorten TMPDIR")
        super().__init__(servers, replace(databases, leader=leader))
