"""An engine at work between databases of its own, and a backlog that it drains.

Nothing is sent to it while the leader takes the load; the clock stops when the followers show the last of it.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import psycopg
from confluent_kafka import KafkaException

from cdc.errors import CdcError
from tests.benchmarks.engines import Engine, running
from tests.benchmarks.processes import Cpu, Memory
from tests.benchmarks.report import PROGRESS, NoResult
from tests.benchmarks.servers import Databases, Servers
from tests.benchmarks.workloads import ROWS_A_TRANSACTION, Leader, insert_rows

CATCH_UP_SECONDS = 600.0
FAILURES = (NoResult, CdcError, psycopg.Error, KafkaException, subprocess.SubprocessError)
"""What costs an engine a run, and not the others theirs."""
_POLL_SECONDS = 0.01
_SAMPLE_SECONDS = 0.1
_CHECK_SECONDS = 5.0
_COMPARE_SECONDS = 60.0
_CONTENTS = "SELECT count(*), sum(hashtext(t::text)::bigint) FROM {} t"
_TABLES = "SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"


@dataclass(frozen=True)
class Drained:
    """One workload by one engine in one run: by process microseconds of CPU a row and the highest resident memory; and
    by seconds how many rows the follower still lacked."""

    rows: int
    seconds: float
    cpu_us: dict[str, float]
    memory_mb: dict[str, float]
    kafka_bytes: float | None
    lag: list[tuple[float, int]]

    @property
    def rate(self) -> float:
        return self.rows / self.seconds


class Wait(NamedTuple):
    """How long it took, and by seconds how many rows were missing meanwhile."""

    seconds: float
    lag: list[tuple[float, int]]


class Stage:
    """An engine at work between databases of its own."""

    def __init__(self, engine: Engine, leader: Leader, followers: Sequence[psycopg.Connection]) -> None:
        self.engine = engine
        self.leader = leader
        self.followers = followers

    def warm_up(self, scale: float = 1.0) -> None:
        """Not counted: JVMs compile what they run, caches fill, and the first batches differ."""
        half = max(int(self.engine.warm_up_rows * min(scale, 1.0)) // 2, ROWS_A_TRANSACTION)
        for first in (-2 * half, -half):
            self.drain(half, partial(insert_rows, self.leader.connection, "items", first, half, ROWS_A_TRANSACTION))

    def drain(self, rows: int, load: Callable[[], str], progress: str | None = None) -> Drained:
        daemons = self.engine.daemons()
        working = {**daemons, **self.engine.helpers()}
        with self.engine.held():
            in_log = self.engine.log_bytes()
            shown = load()
            self.leader.connection.execute("CHECKPOINT")
            cpu = Cpu(working)
            started = time.perf_counter()
        with Memory(daemons) as memory:
            waited = self.wait_for(shown, rows, progress)
        seconds = time.perf_counter() - started
        spent = {name: round(cpu_seconds / rows * 1e6, 2) for name, cpu_seconds in cpu.spent().items()}
        now_in_log = self.engine.log_bytes()
        return Drained(
            rows, round(seconds, 3), spent, {name: round(size) for name, size in memory.peak_mb.items()},
            None if in_log is None or now_in_log is None else round((now_in_log - in_log) / rows, 1), waited.lag,
        )  # fmt: skip

    def wait_for(self, shown: str, rows: int = 0, progress: str | None = None) -> Wait:
        """Until all followers show it. The samples are of the last one."""
        started = time.monotonic()
        samples = [(0.0, rows)] if progress else []
        checked = 0.0
        for follower in self.followers:
            while not asked(follower, shown):
                passed = time.monotonic() - started
                if passed > CATCH_UP_SECONDS:
                    raise NoResult(f"{self.engine.name} did not catch up in {CATCH_UP_SECONDS:.0f} s")
                if passed > checked + _CHECK_SECONDS:
                    self.engine.check()
                    checked = passed
                if progress and passed >= samples[-1][0] + _SAMPLE_SECONDS:
                    samples.append((round(passed, 2), rows - asked(follower, progress)))
                time.sleep(_POLL_SECONDS)
        seconds = round(time.monotonic() - started, 3)
        return Wait(seconds, [*samples, (seconds, 0)] if progress else [])

    def compare(self) -> None:
        """NoResult when the rows are not equal. Not every engine keeps transactions together, so some may be late."""
        deadline = time.monotonic() + _COMPARE_SECONDS
        while different := self._different():
            if time.monotonic() > deadline:
                raise NoResult(f"{self.engine.name}: the follower's rows of {different} are not the leader's")
            time.sleep(1)

    def _different(self) -> str | None:
        """The first table whose rows are not the leader's everywhere."""
        for (table,) in self.leader.connection.execute(_TABLES).fetchall():
            query = _CONTENTS.format(table).encode()
            wanted = self.leader.connection.execute(query).fetchone()
            if any(follower.execute(query).fetchone() != wanted for follower in self.followers):
                return str(table)
        return None


def asked(connection: psycopg.Connection, query: str) -> int:
    """The number that a query answers with; nothing is 0."""
    row = connection.execute(query.encode()).fetchone()
    return int(row[0] or 0) if row else 0


@contextmanager
def staged(name: str, own: Servers, run: str, tables: Callable[[str], None]) -> Iterator[Stage]:
    """An engine between fresh databases, which are gone afterwards."""
    with ExitStack() as stack:
        databases: Databases = stack.enter_context(own.databases(f"{name}_{run}"))
        engine = stack.enter_context(running(name, own, databases, tables))
        connections = [
            stack.enter_context(psycopg.connect(dsn, autocommit=True))
            for dsn in (databases.leader, *databases.followers)
        ]
        yield Stage(engine, Leader(databases.leader, connections[0], own.programs), connections[1:])


def take_turns(
    what: str, engines: Sequence[str], runs: int, failures: list[str], work: Callable[[str, int], None]
) -> None:
    """All in each run, another one first each time: who comes later finds the servers warmer."""
    for run in range(runs):
        first = run % len(engines)
        for engine in (*engines[first:], *engines[:first]):
            PROGRESS.print(f"{what}, run {run + 1} of {runs}: {engine}")
            try:
                work(engine, run)
            except FAILURES as error:
                failures.append(f"{what}, {engine}, run {run + 1}: {error}")
                PROGRESS.print(f"  no result: {error}", markup=False)
