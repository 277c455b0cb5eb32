"""What a measurement wants of an engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import psutil

from tests.benchmarks import processes
from tests.benchmarks.processes import Processes
from tests.benchmarks.report import NoResult
from tests.benchmarks.servers import Databases, Servers


class Engine(ABC):
    """From one leader's database to followers'. Constructed without doing anything."""

    name: ClassVar[str]
    needs_tables: ClassVar[bool] = True
    """Whether the followers' tables must be there before it starts, with the leader's rows of that moment."""
    replicates: ClassVar[bool] = True
    """Whether rows come to the followers."""
    warm_up_rows: ClassVar[int] = 200_000

    def __init__(self, servers: Servers, databases: Databases) -> None:
        self.servers = servers
        self.databases = databases

    @abstractmethod
    def start(self) -> None:
        """Whatever is committed on the leader afterwards comes to the followers."""

    @abstractmethod
    def daemons(self) -> Processes:
        """Its own processes."""

    @abstractmethod
    def helpers(self) -> Processes:
        """Processes of the servers that work for it: `walsender` and others."""

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nothing is sent to it while the `with` lasts.

        The leader's walsenders are held and not the engine: that one would find its clocks wrong, or go on
        reading into its queues.
        """
        walsenders = self.helpers()["walsender"]
        with processes.held(walsenders, self.databases.leader):
            yield
            if self.helpers()["walsender"] != walsenders:
                raise NoResult(f"{self.name} connected anew while it was held: the load took too long")

    def log_bytes(self) -> int | None:
        """What Kafka holds of it; None when there is nothing in Kafka, or it cannot be seen."""
        return None

    def check(self) -> None:
        """NoResult when it has failed and will not go on."""
        for name, pids in self.daemons().items():
            if not all(map(psutil.pid_exists, pids)):
                raise NoResult(f"{name} of {self.name} has ended")

    @abstractmethod
    def close(self) -> None:
        """End it, also one that never started. Its databases are dropped afterwards, with slots."""
