"""The processes that are measured: CPU time, resident memory, and how they are held while a backlog is made."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import psutil
import psycopg

from cdc.local.processes import wait_for
from tests.benchmarks.meanwhile import Meanwhile
from tests.benchmarks.report import NoResult
from tests.support.pausing import send

Processes = dict[str, list[int]]
"""Ids of processes by what they do."""
PROCESSES = ("walsender", "capture", "connect", "broker", "apply", "backend")
"""In the order of a row's way."""
_FIND_SECONDS = 60.0
_WALSENDERS = (
    "SELECT active_pid FROM pg_replication_slots WHERE database = current_database() AND active_pid IS NOT NULL"
)
_AT_REST = "SELECT count(*) FROM pg_stat_activity WHERE pid = ANY(%s) AND wait_event ILIKE 'walsender%%'"
"""Events of waiting for WAL, for a client's answer or for room in its socket: no lock is held there."""


class Memory(Meanwhile):
    """Highest resident memory, in MB, of some processes while the `with` lasts."""

    def __init__(self, processes: Mapping[str, Iterable[int]]) -> None:
        super().__init__()
        self.peak_mb = dict.fromkeys(processes, 0.0)
        self._processes = {name: [psutil.Process(pid) for pid in pids] for name, pids in processes.items()}

    def _work(self) -> None:
        while True:
            for name, processes in self._processes.items():
                with suppress(psutil.NoSuchProcess):
                    now = sum(process.memory_info().rss for process in processes) / 2**20
                    self.peak_mb[name] = max(self.peak_mb[name], now)
            if self._done.wait(0.1):
                return


class Cpu:
    """Seconds of CPU that processes spend from here on.

    Without those that end meanwhile: a daemon that was held for long may connect anew, and gets another backend.
    """

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._before = self._spent()

    def spent(self) -> dict[str, float]:
        return {name: spent - self._before[name] for name, spent in self._spent().items() if name in self._before}

    def _spent(self) -> dict[str, float]:
        spent = {}
        for name, pids in self._processes.items():
            with suppress(psutil.NoSuchProcess):
                spent[name] = float(sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids))
        return spent


def find(dsn: str, query: str) -> list[int]:
    """The processes that `query` finds, as soon as it finds one."""
    deadline = time.monotonic() + _FIND_SECONDS
    while time.monotonic() < deadline:
        with psycopg.connect(dsn) as connection:
            rows = connection.execute(query.encode()).fetchall()
        if found := [int(pid) for (pid,) in rows if pid]:
            return found
        time.sleep(0.1)
    raise NoResult(f"a process is not there that is to be measured: {query}")


def walsenders(dsn: str) -> list[int]:
    """Those of a leader's database; each run has one of its own."""
    return find(dsn, _WALSENDERS)


def measured(figures: Iterable[Mapping[str, object]]) -> list[str]:
    """The processes that there are figures of, in the order of a row's way."""
    found = {name for each in figures for name in each}
    return [name for name in PROCESSES if name in found]


@contextmanager
def held(walsenders: Sequence[int], dsn: str) -> Iterator[None]:
    """They send nothing while the `with` lasts.

    Stopped where they wait for something: one that was stopped while it saved its slot holds a lock that checkpoints
    take.
    """
    try:
        with psycopg.connect(dsn, autocommit=True) as connection:
            if not wait_for(lambda: _stop_at_rest(connection, walsenders), seconds=_FIND_SECONDS):
                raise NoResult("walsenders were never at rest, so that they could not be held")
        yield
    finally:
        send(signal.SIGCONT, walsenders)


def _stop_at_rest(connection: psycopg.Connection, walsenders: Sequence[int]) -> bool:
    """Whether they stand still now, which is only when all of them waited: a stopped process goes on being seen as what
    it was at that moment."""
    send(signal.SIGSTOP, walsenders)
    at_rest = connection.execute(_AT_REST, [list(walsenders)]).fetchone() == (len(walsenders),)
    if not at_rest:
        send(signal.SIGCONT, walsenders)
    return at_rest


@contextmanager
def on_cpus(cpus: set[int] | None) -> Iterator[None]:
    """All threads of this process, and what they start while the `with` lasts, with all its children; None changes
    nothing. All of them, because servers are started by a thread of its own (`cdc/local/processes.py`)."""
    before = os.sched_getaffinity(0)
    _bind_threads(cpus or before)
    try:
        yield
    finally:
        _bind_threads(before)


def _bind_threads(cpus: set[int]) -> None:
    for thread in psutil.Process().threads():
        with suppress(ProcessLookupError):
            os.sched_setaffinity(thread.id, cpus)
