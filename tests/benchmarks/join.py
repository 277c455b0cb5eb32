"""What a follower that joins costs the others: latency of commits, and of the follower that is there already, under a
load that waits for nobody, while another one is copied by `cdc bootstrap`.

Beside it the same while pg_dump and pg_restore copy the same rows: on one machine every copy takes CPU from all.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import psycopg

from cdc.local.group import Group
from tests.benchmarks.figures import Spread, counted
from tests.benchmarks.latency import SETTLE_SECONDS, START_SECONDS, Latency, summary, times
from tests.benchmarks.open_loop import LOADS
from tests.benchmarks.report import PROGRESS, Circumstances, NoResult, Report, Sheet
from tests.benchmarks.servers import Databases, Servers, servers
from tests.benchmarks.stage import take_turns
from tests.benchmarks.workloads import insert_rows, items_table

LOAD = "singles"
ROWS = 1_500_000
NOBODY, DUMP, OURS = "nobody", "pg_dump, pg_restore", "cdc bootstrap"
_JOBS = str(os.cpu_count() or 2)
_COPY_SECONDS = 600.0


@dataclass(frozen=True)
class Joined:
    """`latency` is of what was due while the copy went on, which took `seconds`."""

    latency: Latency
    seconds: float


Results = dict[str, list[Joined]]


def measure(runs: int, seconds: float, scale: float) -> Report:
    circumstances = Circumstances()
    results: Results = {NOBODY: [], DUMP: [], OURS: []}
    failures: list[str] = []
    rows = int(ROWS * scale)
    with servers(followers=2) as own:
        take_turns(
            "join", list(results), runs, failures,
            lambda joins, run: results[joins].append(_run(joins, own, f"join_{run}", rows, seconds)),
        )  # fmt: skip
        facts = circumstances.facts(servers=own.description, runs=runs, seconds=seconds, rows=rows)
    told = {joins: list(map(asdict, runs)) for joins, runs in results.items()}
    return Report("join", [_sheet(results, rows)], told, facts, failures)


def _run(joins: str, own: Servers, name: str, rows: int, seconds: float) -> Joined:
    with own.databases(name) as databases:
        items_table(databases.leader)
        with psycopg.connect(databases.leader) as connection:
            LOADS[LOAD].make_tables(connection, 0)
            insert_rows(connection, "items", 0, rows, rows)
        first, second = databases.followers
        folder = Path(tempfile.mkdtemp(dir=own.folder))
        nodes = {"leader": databases.leader, "first": first, "second": second}
        group = Group(folder, name, "leader", nodes, own.kafka.bootstrap_servers)
        copies = {NOBODY: _nothing, DUMP: lambda: _dump(own, databases), OURS: lambda: _bootstrap(group, "second")}
        try:
            _must(group, "init")
            _bootstrap(group, "first")
            group.start("capture")
            group.start("apply", "first")
            found = _under_load(databases, copies[joins], seconds)
        finally:
            group.close()
            own.delete_topics(group.topic)
    PROGRESS.print(f"  p50 {found.latency.percentiles[50.0]:.1f} ms, p99 {found.latency.percentiles[99.0]:.1f} ms")
    return found


def _under_load(databases: Databases, copy: Callable[[], None], seconds: float) -> Joined:
    begins = time.monotonic() + START_SECONDS

    def copied() -> tuple[float, float]:
        time.sleep(max(0.0, begins + SETTLE_SECONDS - time.monotonic()))
        began = time.monotonic()
        copy()
        return began, time.monotonic()

    with ThreadPoolExecutor(1) as pool:
        copying = pool.submit(copied)
        due, returned, seen = times(LOAD, databases, SETTLE_SECONDS + seconds, begins)
        began, ended = copying.result()
    if ended > due[-1]:
        raise NoResult(f"the copy took {ended - began:.0f} s, longer than the load of {seconds:.0f} s")
    until = ended if copy is not _nothing else due[-1]
    numbers = [number for number, at in enumerate(due) if began <= at <= until]
    there = slice(numbers[0], numbers[-1] + 1)
    return Joined(summary(due[there], returned[there], seen[there]), round(ended - began, 2))


def _nothing() -> None:
    return


def _bootstrap(group: Group, follower: str) -> None:
    _must(group, "bootstrap", "--follower", follower, "--jobs", _JOBS)


def _must(group: Group, *arguments: str) -> None:
    done = group.run(*arguments, seconds=_COPY_SECONDS)
    if done.returncode:
        raise NoResult(f"cdc {arguments[0]}: {done.stderr}")


def _dump(own: Servers, databases: Databases) -> None:
    jobs, programs = f"--jobs={_JOBS}", own.programs
    with tempfile.TemporaryDirectory(dir=own.folder) as folder:
        dump = f"{folder}/dump"
        subprocess.run(
            [programs / "pg_dump", "-Fd", jobs, "--table=items", f"--file={dump}", databases.leader], check=True
        )
        subprocess.run([programs / "pg_restore", jobs, f"--dbname={databases.followers[1]}", dump], check=True)


def _sheet(results: Results, rows: int) -> Sheet:
    columns = ["copied beside, by", "seconds", "latency p50, ms", "p99, ms", "commit's p99, ms"]
    sheet = Sheet(f"{LOADS[LOAD].about}, while {rows:,} rows are copied to another follower", columns)
    for joins, all_runs in results.items():
        if runs := counted(all_runs):
            figures = [
                [run.seconds for run in runs],
                [run.latency.percentiles[50.0] for run in runs],
                [run.latency.percentiles[99.0] for run in runs],
                [run.latency.late_p99 for run in runs],
            ]
            told = [Spread.of(of).told(".1f") for of in figures]
            sheet.rows.append([joins, "-" if joins == NOBODY else told[0], *told[1:]])
    return sheet
