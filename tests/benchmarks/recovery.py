"""How long a follower shows nothing new after SIGKILL of capture, or of its applier, which is started again at once."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass

import psycopg

from tests.benchmarks.engines import OURS, Ours
from tests.benchmarks.figures import Spread, counted
from tests.benchmarks.meanwhile import Meanwhile
from tests.benchmarks.report import PROGRESS, Circumstances, NoResult, Report, Sheet
from tests.benchmarks.servers import servers
from tests.benchmarks.stage import FAILURES, Stage, staged
from tests.benchmarks.workloads import items_table

ROWS_A_SECOND = 500
_UP_TO_DATE_SECONDS = 0.25
"""A follower that shows what was committed so long ago has caught up."""
_WAIT_SECONDS = 120.0
_SETTLE_SECONDS = 3.0
_LOOK_SECONDS = 0.005
_ROW = "INSERT INTO items VALUES (%s, 1, 'new', 1, repeat('x', 100), '{}', now())"


@dataclass(frozen=True)
class Recovery:
    """Seconds since the kill until a row is shown that was committed after it, and until the lag is as before."""

    first_row: float
    caught_up: float


class Writer(Meanwhile):
    """Commits a row after the other; `commits` are (when it had returned, id), in order."""

    def __init__(self, dsn: str) -> None:
        super().__init__()
        self.commits: list[tuple[float, int]] = []
        self._dsn = dsn

    def newest(self, before: float) -> int:
        """The last row that was committed by then."""
        return next((number for at, number in reversed(self.commits) if at <= before), -1)

    def _work(self) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            number = 0
            while not self._done.wait(1 / ROWS_A_SECOND):
                connection.execute(_ROW, (number,))
                self.commits.append((time.monotonic(), number))
                number += 1


def measure(runs: int) -> Report:
    circumstances = Circumstances()
    results: dict[str, list[Recovery]] = {"capture": [], "apply": []}
    failures: list[str] = []
    with servers() as own:
        try:
            with staged(OURS, own, "recovery", items_table) as stage, Writer(stage.leader.dsn) as writer:
                for run in range(runs):
                    for daemon, found in results.items():
                        PROGRESS.print(f"recovery, run {run + 1} of {runs}: kill -9 of {daemon}")
                        time.sleep(_SETTLE_SECONDS)
                        found.append(_killed(stage, writer, daemon))
                        PROGRESS.print(f"  first row after {found[-1].first_row:.2f} s")
        except FAILURES as error:
            failures.append(str(error))
        facts = circumstances.facts(servers=own.description, runs=runs)
    told = {daemon: list(map(asdict, found)) for daemon, found in results.items()}
    return Report("recovery", [_sheet(results)], told, facts, failures)


def _killed(stage: Stage, writer: Writer, daemon: str) -> Recovery:
    engine = stage.engine
    assert isinstance(engine, Ours)
    name = next(name for name in engine.names() if name.startswith(daemon))
    engine.group.kill(name)
    killed = time.monotonic()
    awaited = writer.newest(killed) + 1
    engine.start_daemon(name)
    first_row = None
    while (now := time.monotonic()) < killed + _WAIT_SECONDS:
        row = stage.followers[0].execute("SELECT coalesce(max(id), -1) FROM items").fetchone()
        shown = row[0] if row else -1
        if first_row is None and shown > awaited:
            first_row = now - killed
        if first_row is not None and shown >= writer.newest(now - _UP_TO_DATE_SECONDS):
            return Recovery(round(first_row, 3), round(now - killed, 3))
        time.sleep(_LOOK_SECONDS)
    engine.check()
    raise NoResult(f"the follower did not catch up within {_WAIT_SECONDS:.0f} s of the kill of {daemon}")


def _sheet(results: dict[str, list[Recovery]]) -> Sheet:
    title = f"Seconds after kill -9 at {ROWS_A_SECOND} rows a second, until"
    sheet = Sheet(title, ["killed", "the first row is applied", "the follower has caught up"])
    for daemon, found in results.items():
        if runs := counted(found):
            first, caught_up = [run.first_row for run in runs], [run.caught_up for run in runs]
            sheet.rows.append([daemon, Spread.of(first).told(".2f"), Spread.of(caught_up).told(".2f")])
    return sheet
