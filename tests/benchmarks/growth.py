"""Whether a row costs the same among few and many rows, tables and followers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial

import psycopg

from tests.benchmarks.engines import OURS
from tests.benchmarks.figures import Spread, counted
from tests.benchmarks.report import PROGRESS, Circumstances, Report, Sheet
from tests.benchmarks.servers import servers
from tests.benchmarks.stage import FAILURES, Drained, Stage, staged
from tests.benchmarks.workloads import INSERT, ROWS_A_TRANSACTION, TABLE, insert_rows, items_table

ROWS = (10_000, 100_000, 1_000_000, 5_000_000)
TABLES = (1, 10, 200)
FOLLOWERS = (1, 2, 4)
OTHERWISE = 200_000
"""Rows where it is not they that grow."""

Results = dict[str, dict[int, list[Drained]]]
"""By what grows and how much of it there was the runs, in their order."""


def measure(runs: int, scale: float) -> Report:
    circumstances = Circumstances()
    results: Results = {"rows": {}, "tables": {}, "followers": {}}
    failures: list[str] = []
    with _alone("rows", failures), _stage(1, 1, scale) as stage:
        results["rows"] = _by_rows(stage, runs, scale)
    rows = _scaled(OTHERWISE, scale)
    for tables in TABLES:
        with _alone(f"{tables} tables", failures), _stage(1, tables, scale) as stage:
            results["tables"][tables] = _drains(stage, rows, tables, runs)
    for followers in FOLLOWERS:
        with _alone(f"{followers} followers", failures), _stage(followers, 1, scale) as stage:
            results["followers"][followers] = _drains(stage, rows, 1, runs)
    told = {what: {much: list(map(asdict, of)) for much, of in by.items()} for what, by in results.items()}
    sheets = [_sheet(what, by) for what, by in results.items()]
    return Report("growth", sheets, told, circumstances.facts(runs=runs, scale=scale), failures)


@contextmanager
def _alone(title: str, failures: list[str]) -> Iterator[None]:
    """What fails is told, and the next is measured."""
    PROGRESS.print(f"growth, {title}")
    try:
        yield
    except FAILURES as error:
        failures.append(f"growth, {title}: {error}")
        PROGRESS.print(f"  no result: {error}", markup=False)


@contextmanager
def _stage(followers: int, tables: int, scale: float) -> Iterator[Stage]:
    """Servers of its own for each: followers that are not asked for would only take memory and time."""
    with servers(followers) as own, staged(OURS, own, "growth", partial(_make_tables, tables)) as stage:
        stage.warm_up(scale)
        yield stage
        stage.compare()


def _scaled(rows: int, scale: float) -> int:
    return max(int(rows * scale) // ROWS_A_TRANSACTION, 1) * ROWS_A_TRANSACTION


def _by_rows(stage: Stage, runs: int, scale: float) -> dict[int, list[Drained]]:
    found: dict[int, list[Drained]] = {}
    first = 0
    for rows in dict.fromkeys(_scaled(rows, scale) for rows in ROWS):
        found[rows] = []
        for _ in range(runs):
            load = partial(insert_rows, stage.leader.connection, "items", first, rows, ROWS_A_TRANSACTION)
            found[rows].append(_told(stage.drain(rows, load)))
            first += rows
    return found


def _drains(stage: Stage, rows: int, tables: int, runs: int) -> list[Drained]:
    """Each transaction goes to the next table."""
    return [
        _told(stage.drain(rows, partial(_insert, stage.leader.connection, tables, run * rows, rows)))
        for run in range(runs)
    ]


def _told(drained: Drained) -> Drained:
    PROGRESS.print(f"  {drained.rows:,} rows, {drained.rate:,.0f} a second")
    return drained


def _insert(leader: psycopg.Connection, tables: int, first: int, rows: int) -> str:
    for start in range(first, first + rows, ROWS_A_TRANSACTION):
        table = f"grown_{start // ROWS_A_TRANSACTION % tables}"
        last = start + ROWS_A_TRANSACTION - 1
        leader.execute(INSERT.format(name=table, first=start, last=last, at="now()").encode())
    return f"SELECT count(*) FROM {table} WHERE id = {last}"


def _make_tables(tables: int, dsn: str) -> None:
    items_table(dsn)
    with psycopg.connect(dsn) as connection:
        for number in range(tables):
            connection.execute(TABLE.format(name=f"grown_{number}").encode())


def _sheet(what: str, by_much: dict[int, list[Drained]]) -> Sheet:
    sheet = Sheet(
        f"Growth of {what}: CPU seconds a million rows, highest resident memory",
        [what, "rows drained", "rows a second", "capture", "apply, each", "capture, MB", "apply, MB each"],
    )
    for much, all_runs in by_much.items():
        runs = counted(all_runs)
        share = 1 / much if what == "followers" else 1.0
        sheet.rows.append([
            f"{much:,}", f"{runs[0].rows:,}", Spread.of([run.rate for run in runs]).told(",.0f"),
            _median([run.cpu_us["capture"] for run in runs], ".1f"),
            _median([run.cpu_us["apply"] * share for run in runs], ".1f"),
            _median([run.memory_mb["capture"] for run in runs], ".0f"),
            _median([run.memory_mb["apply"] * share for run in runs], ".0f"),
        ])  # fmt: skip
    return sheet


def _median(figures: Sequence[float], form: str) -> str:
    return f"{Spread.of(figures).median:{form}}"
