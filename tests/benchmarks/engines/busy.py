"""Nobody replicates, and the other CPUs work: what a leader loses to its neighbours on one machine."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.benchmarks.engines.engine import Nobody
from tests.benchmarks.servers import Databases, Servers


class Busy(Nobody):
    """A loop in registers for each CPU that is not the leader's; the least that neighbours can cost."""

    name = "busy"

    def __init__(self, servers: Servers, databases: Databases) -> None:
        super().__init__(servers, databases)
        self._loops: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        for _ in os.sched_getaffinity(0):
            self._loops.append(subprocess.Popen([sys.executable, "-c", "while True: pass"]))

    def close(self) -> None:
        for loop in self._loops:
            loop.kill()
            loop.wait()
