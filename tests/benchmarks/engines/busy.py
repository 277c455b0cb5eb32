"""Nobody replicates, and the other CPUs work: what a leader loses to its neighbours on one machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from cdc.local.processes import end_child, start_child
from tests.benchmarks.engines.engine import Nobody
from tests.benchmarks.servers import Databases, Servers

_END_SECONDS = 10.0


class Busy(Nobody):
    """A loop in registers for each CPU that is not the leader's; the least that neighbours can cost."""

    name = "busy"

    def __init__(self, servers: Servers, databases: Databases) -> None:
        super().__init__(servers, databases)
        self._loops: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        for _ in os.sched_getaffinity(0):
            self._loops.append(start_child([sys.executable, "-c", "while True: pass"]))

    def close(self) -> None:
        for loop in self._loops:
            end_child(loop, signal.SIGKILL, _END_SECONDS)
