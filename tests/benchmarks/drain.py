"""How fast a backlog drains, by each engine in turn. A run whose rows are not the leader's has no result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from tests.benchmarks.figures import Spread, counted
from tests.benchmarks.processes import measured
from tests.benchmarks.report import PROGRESS, Circumstances, Report, Sheet
from tests.benchmarks.servers import Servers, servers
from tests.benchmarks.stage import Drained, staged, take_turns
from tests.benchmarks.workloads import WORKLOADS, Workload, make_tables

Results = dict[str, dict[str, list[Drained]]]
"""By engine and workload the runs, in their order."""


def measure(names: Sequence[str], engines: Sequence[str], runs: int, scale: float) -> Report:
    circumstances = Circumstances()
    workloads = [WORKLOADS[name] for name in names]
    results: Results = {engine: {name: [] for name in names} for engine in engines}
    failures: list[str] = []
    with servers() as own:
        PROGRESS.print(", ".join(own.description))
        take_turns(
            "drain", engines, runs, failures,
            lambda engine, run: _run(engine, own, run, workloads, scale, results[engine]),
        )  # fmt: skip
        facts = circumstances.facts(servers=own.description, runs=runs, scale=scale)
    told = {engine: {name: list(map(asdict, of)) for name, of in by.items()} for engine, by in results.items()}
    return Report("drain", _sheets(results), told, facts, failures)


def _run(
    engine: str, own: Servers, run: int, workloads: Sequence[Workload], scale: float, results: dict[str, list[Drained]]
) -> None:
    """Results are kept only when in the end all rows are equal."""
    tables = partial(_make_tables, workloads, own.programs, scale)
    with staged(engine, own, str(run), tables) as stage:
        stage.warm_up(scale)
        drained = {}
        for workload in workloads:
            count = workload.at(scale)
            rows = count * workload.rows_each
            load = partial(workload.load, stage.leader, count)
            drained[workload.name] = found = stage.drain(rows, load, workload.progress)
            PROGRESS.print(f"  {workload.name}: {rows:,} rows, {found.rate:,.0f} a second")
        stage.compare()
    for name, found in drained.items():
        results[name].append(found)


def _make_tables(workloads: Sequence[Workload], programs: Path, scale: float, dsn: str) -> None:
    make_tables(workloads, dsn, programs, scale)


def _sheets(results: Results) -> list[Sheet]:
    return [_rates(results), _cpu(results), _sizes(results)]


def _rates(results: Results) -> Sheet:
    *peers, ours = results
    sheet = Sheet("A backlog drains: rows a second, median (least-most)",
                  ["workload", "rows", *results, *(f"to {peer}" for peer in peers)])  # fmt: skip
    for workload, runs in results[ours].items():
        rates = {engine: _spread([run.rate for run in by[workload]]) for engine, by in results.items()}
        ratios = [_ratio(rates[ours], rates[peer]) for peer in peers]
        told = [rate.told(",.0f") if rate else "-" for rate in rates.values()]
        sheet.rows.append([workload, f"{runs[0].rows:,}" if runs else "-", *told, *ratios])
    return sheet


def _ratio(ours: Spread | None, peer: Spread | None) -> str:
    return f"{ours.median / peer.median:.2f}" if ours and peer else "-"


def _cpu(results: Results) -> Sheet:
    processes = measured(run.cpu_us for _, runs in _each(results) for run in runs)
    sheet = Sheet("CPU seconds a million rows, by process", ["workload", *processes, "all"])
    for title, runs in _each(results):
        cpu = [_told([run.cpu_us.get(name) for run in runs], ".1f") for name in processes]
        sheet.rows.append([title, *cpu, _told([sum(run.cpu_us.values()) for run in runs], ".1f")])
    return sheet


def _sizes(results: Results) -> Sheet:
    processes = measured(run.memory_mb for _, runs in _each(results) for run in runs)
    columns = ["workload", *(f"{name}, MB" for name in processes), "Kafka, bytes a row"]
    sheet = Sheet("Highest resident memory, size of the log", columns)
    for title, runs in _each(results):
        memory = [_told([run.memory_mb.get(name) for run in runs], ".0f") for name in processes]
        sheet.rows.append([title, *memory, _told([run.kafka_bytes for run in runs], ".0f")])
    return sheet


def _each(results: Results) -> Iterator[tuple[str, list[Drained]]]:
    for workload in next(iter(results.values())):
        for engine, by in results.items():
            yield f"{workload}, {engine}", by[workload]


def _told(figures: Sequence[float | None], form: str) -> str:
    spread = _spread([figure for figure in figures if figure is not None])
    return f"{spread.median:{form}}" if spread else "-"


def _spread(figures: Sequence[float]) -> Spread | None:
    return Spread.of(counted(figures)) if figures else None
