"""From a commit's return on the leader until a reader sees it on the follower, at a fixed offered load.

Not by the follower's commit timestamps: an engine may stamp the leader's time, as PostgreSQL's own does.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial

import psycopg

from tests.benchmarks import open_loop
from tests.benchmarks.figures import PERCENTILES, Spread, counted, percentile, quantiles, schedule
from tests.benchmarks.open_loop import LOADS
from tests.benchmarks.report import PROGRESS, Circumstances, NoResult, Report, Sheet
from tests.benchmarks.servers import Databases, Servers, servers
from tests.benchmarks.stage import staged, take_turns
from tests.benchmarks.workloads import items_table

SETTLE_SECONDS = 5.0
"""Of load before what counts."""
CATCH_UP_SECONDS = 180.0
"""After the load, for an engine that does not keep up."""
START_SECONDS = 2.0
"""Until both processes run."""


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one run. `late_p99` is the leader's own: from when a transaction was due until its commit
    returned; `from_schedule` begins when it was due."""

    transactions: int
    percentiles: dict[float, float]
    greatest: float
    from_schedule: dict[float, float]
    late_p99: float
    curve: list[float]


Results = dict[str, dict[str, list[Latency]]]
"""By load and engine the runs, in their order."""


def measure(loads: Sequence[str], engines: Sequence[str], runs: int, seconds: float, scale: float) -> Report:
    circumstances = Circumstances()
    results: Results = {load: {engine: [] for engine in engines} for load in loads}
    failures: list[str] = []
    with servers() as own:
        PROGRESS.print(", ".join(own.description))
        for load in loads:
            take_turns(
                f"latency, {load}", engines, runs, failures,
                lambda engine, run, load=load: results[load][engine].append(  # type: ignore[misc]
                    _run(engine, own, f"{load}_{run}", load, seconds, scale)
                ),
            )  # fmt: skip
        facts = circumstances.facts(servers=own.description, runs=runs, seconds=seconds)
    told = {load: {engine: list(map(asdict, of)) for engine, of in by.items()} for load, by in results.items()}
    return Report("latency", [_sheet(load, by) for load, by in results.items()], told, facts, failures)


def _run(engine: str, own: Servers, name: str, load: str, seconds: float, scale: float) -> Latency:
    count = len(list(schedule(LOADS[load].rate, SETTLE_SECONDS + seconds)))
    with staged(engine, own, name, partial(_make_tables, load, count)) as stage:
        stage.warm_up(scale)
        found = _under_load(load, stage.engine.databases, SETTLE_SECONDS + seconds)
        stage.compare()
        PROGRESS.print(f"  p50 {found.percentiles[50.0]:.1f} ms, p99 {found.percentiles[99.0]:.1f} ms")
        return found


def _make_tables(load: str, count: int, dsn: str) -> None:
    items_table(dsn)
    with psycopg.connect(dsn) as connection:
        LOADS[load].make_tables(connection, count)


def _under_load(load: str, databases: Databases, seconds: float) -> Latency:
    begins = time.monotonic() + START_SECONDS
    due, returned, seen = times(load, databases, seconds, begins)
    first = next(number for number, at in enumerate(due) if at >= begins + SETTLE_SECONDS)
    return summary(due[first:], returned[first:], seen[first:])


def times(
    load: str, databases: Databases, seconds: float, begins: float
) -> tuple[list[float], list[float], list[float]]:
    """Of each transaction: when it was due, when its commit returned, and when the first follower showed it."""
    due = [begins + at for at in schedule(LOADS[load].rate, seconds)]
    until = begins + seconds + CATCH_UP_SECONDS
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        reading = pool.submit(open_loop.read, databases.followers[0], len(due), until)
        writing = pool.submit(open_loop.write, databases.leader, load, seconds, begins)
        returned, seen = writing.result(), reading.result()
    if missing := seen.count(0.0):
        raise NoResult(f"{missing:,} of {len(due):,} transactions not there {CATCH_UP_SECONDS:.0f} s after the load")
    return due, returned, seen


def summary(due: Sequence[float], returned: Sequence[float], seen: Sequence[float]) -> Latency:
    """Of times in seconds. A follower may show a commit before the leader's client has heard of it: that is 0."""
    latencies = _milliseconds(returned, seen)
    scheduled = _milliseconds(due, seen)
    return Latency(
        len(due), {percent: percentile(latencies, percent) for percent in PERCENTILES}, latencies[-1],
        {percent: percentile(scheduled, percent) for percent in PERCENTILES},
        percentile(_milliseconds(due, returned), 99.0), quantiles(latencies),
    )  # fmt: skip


def _milliseconds(since: Sequence[float], until: Sequence[float]) -> list[float]:
    return sorted(round(max(end - start, 0.0) * 1e3, 3) for start, end in zip(since, until, strict=True))


def _sheet(load: str, by_engine: dict[str, list[Latency]]) -> Sheet:
    percents = [f"p{percent:g}" for percent in PERCENTILES]
    columns = ["milliseconds", *percents, "most", "p50 since due", "p99 since due", "commit's p99"]
    sheet = Sheet(f"Latency, {LOADS[load].about}", columns)
    for engine, all_runs in by_engine.items():
        if runs := counted(all_runs):
            told = [Spread.of([run.percentiles[percent] for run in runs]).told(".1f") for percent in PERCENTILES]
            due = [Spread.of([run.from_schedule[percent] for run in runs]).median for percent in (50.0, 99.0)]
            greatest = max(run.greatest for run in runs)
            late = Spread.of([run.late_p99 for run in runs]).median
            sheet.rows.append([engine, *told, f"{greatest:.1f}", f"{due[0]:.1f}", f"{due[1]:.1f}", f"{late:.1f}"])
    return sheet
