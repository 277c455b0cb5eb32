"""What the daemons hold: memory, file descriptors, threads, and sessions on the servers."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import psutil
import psycopg

from tests.soak.findings import Findings
from tests.soak.schedule import DAEMONS, POSTGRES
from tests.soak.stage import Stage

_EVERY_SECONDS = 2.0
_MEGABYTE = 2**20
MOST_RESIDENT_BYTES = 400 * _MEGABYTE
"""At any moment; a daemon has 60 to 70 MB before its first row."""
_MORE_RESIDENT_BYTES = 150 * _MEGABYTE
_MORE_FDS, _MORE_THREADS = 8, 6
"""How much more than before the first fault a daemon may hold at rest."""
_WARM_UP_RESTS = 3
_BASELINE_SECONDS = 60.0
"""Sessions whose client is gone end within half a minute, see SESSION_SETTINGS of the connector."""

_SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'cdc%' AND pid <> pg_backend_pid()"


@dataclass(frozen=True, slots=True)
class Held:
    """By one daemon at one rest."""

    at: float
    rss: int
    fds: int
    threads: int


@dataclass
class Memory:
    """Of one daemon over the run, in bytes."""

    least: int = 0
    most: int = 0
    at_rest: list[Held] = field(default_factory=list)

    def note(self, rss: int) -> None:
        self.least = min(self.least or rss, rss)
        self.most = max(self.most, rss)

    @property
    def slope_mb_per_hour(self) -> float | None:
        """Of the line through what was resident at each rest once it is warm; None when there were too few."""
        return slope([(held.at, held.rss) for held in self.at_rest[_WARM_UP_RESTS:]])


def slope(points: Sequence[tuple[float, int]]) -> float | None:
    """Least squares, from bytes at seconds to MB an hour."""
    if len(points) < 3:
        return None
    middle_x = sum(x for x, _ in points) / len(points)
    middle_y = sum(y for _, y in points) / len(points)
    spread = sum((x - middle_x) ** 2 for x, _ in points)
    return sum((x - middle_x) * (y - middle_y) for x, y in points) / spread * 3600 / _MEGABYTE if spread else None


class ResourceWatch:
    """Samples the daemons' memory all the time; `rest` holds all against the first rest, before any fault."""

    def __init__(self, stage: Stage, findings: Findings) -> None:
        self.memory = {name: Memory() for name in DAEMONS}
        self._stage = stage
        self._findings = findings
        self._sessions: dict[str, int] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="resources", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(30)

    def _run(self) -> None:
        while not self._stop.wait(_EVERY_SECONDS):
            for name in DAEMONS:
                held = self._held(name)
                if held is None:
                    continue
                self.memory[name].note(held.rss)
                if held.rss > MOST_RESIDENT_BYTES:
                    self._findings.violation(f"{name} takes {held.rss // _MEGABYTE} MB of memory")
                    return

    def _held(self, daemon: str) -> Held | None:
        """None while it does not run."""
        try:
            process = psutil.Process(self._stage.process(daemon).pid)
            with process.oneshot():
                return Held(
                    round(self._findings.seconds, 1),
                    process.memory_info().rss,
                    process.num_fds(),
                    process.num_threads(),
                )
        except psutil.Error:
            return None

    def rest(self, wait: threading.Event) -> None:
        """Everything is healed and nothing is written: what is held must be what it was at first."""
        for name in DAEMONS:
            held = self._held(name)
            if held is None:
                continue  # that it ended is told elsewhere
            self._compare(name, held)
            self.memory[name].at_rest.append(held)
        self._compare_sessions(wait)

    def _compare(self, name: str, held: Held) -> None:
        if not self.memory[name].at_rest:
            return
        first = self.memory[name].at_rest[0]
        if held.rss > first.rss + _MORE_RESIDENT_BYTES:
            self._findings.violation(
                f"{name} keeps {held.rss // _MEGABYTE} MB at rest, at first {first.rss // _MEGABYTE} MB"
            )
        if held.fds > first.fds + _MORE_FDS or held.threads > first.threads + _MORE_THREADS:
            self._findings.violation(
                f"{name} keeps {held.fds} descriptors and {held.threads} threads at rest, "
                f"at first {first.fds} and {first.threads}"
            )

    def _compare_sessions(self, wait: threading.Event) -> None:
        found = self._count_sessions()
        if not self._sessions:
            self._sessions = found
            return
        deadline = time.monotonic() + _BASELINE_SECONDS
        while more := {name: n for name, n in found.items() if n > self._sessions[name]}:
            if time.monotonic() > deadline or wait.is_set():
                if not wait.is_set():
                    self._findings.violation(f"sessions of daemons are left over: {more}, at first {self._sessions}")
                return
            wait.wait(1.0)
            found = self._count_sessions()

    def _count_sessions(self) -> dict[str, int]:
        counts = {}
        for name in POSTGRES:
            with psycopg.connect(self._stage.dsn(name), autocommit=True, connect_timeout=10) as connection:
                row = connection.execute(_SESSIONS).fetchone()
            counts[name] = int(row[0]) if row else 0
        return counts
