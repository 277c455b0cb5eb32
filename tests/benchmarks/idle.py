"""What the processes of an engine spend while nobody writes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from tests.benchmarks.figures import Spread, counted
from tests.benchmarks.processes import Cpu, measured
from tests.benchmarks.report import PROGRESS, Circumstances, Report, Sheet
from tests.benchmarks.servers import Servers, servers
from tests.benchmarks.stage import staged, take_turns
from tests.benchmarks.workloads import items_table

SETTLE_SECONDS = 10.0

Results = dict[str, list[dict[str, float]]]
"""By engine the runs: by process percent of one core."""


def measure(engines: Sequence[str], runs: int, seconds: float) -> Report:
    circumstances = Circumstances()
    results: Results = {engine: [] for engine in engines}
    failures: list[str] = []
    with servers() as own:
        take_turns("idle", engines, runs, failures,
                   lambda engine, run: results[engine].append(_run(engine, own, run, seconds)))  # fmt: skip
        facts: dict[str, Any] = circumstances.facts(servers=own.description, runs=runs, seconds=seconds)
    return Report("idle", [_sheet(results, seconds)], results, facts, failures)


def _run(engine: str, own: Servers, run: int, seconds: float) -> dict[str, float]:
    with staged(engine, own, f"idle_{run}", items_table) as stage:
        time.sleep(SETTLE_SECONDS)
        cpu = Cpu({**stage.engine.daemons(), **stage.engine.helpers()})
        time.sleep(seconds)
        found = {name: round(100 * spent / seconds, 2) for name, spent in cpu.spent().items()}
    PROGRESS.print("  " + ", ".join(f"{name} {percent} %" for name, percent in found.items()))
    return found


def _sheet(results: Results, seconds: float) -> Sheet:
    processes = measured(run for runs in results.values() for run in runs)
    sheet = Sheet(f"Idle for {seconds:.0f} s, % of one core", ["engine", *processes])
    for engine, all_runs in results.items():
        if runs := counted(all_runs):
            told = [[run[name] for run in runs if name in run] for name in processes]
            sheet.rows.append([engine, *(Spread.of(figures).told(".2f") if figures else "-" for figures in told)])
    return sheet
