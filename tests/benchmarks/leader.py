"""What replication costs the leader: pgbench's rate with nobody, with a walsender for nobody, with each engine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from tests.benchmarks.engines import NOBODY, WALSENDER
from tests.benchmarks.figures import Spread, counted
from tests.benchmarks.processes import Cpu, measured, on_cpus
from tests.benchmarks.report import PROGRESS, Circumstances, Report, Sheet
from tests.benchmarks.servers import Servers, servers
from tests.benchmarks.stage import staged, take_turns
from tests.benchmarks.workloads import items_table, mark_tpcb, pgbench_tables, tpcb_rate

WARM_UP_SECONDS = 15
"""Of the same load, which are not counted: caches fill, and the broker compiles what it runs."""


@dataclass(frozen=True)
class Loaded:
    """Transactions a second, how long after the load the follower needed for the rest (where there is one), and by
    process microseconds of CPU a transaction."""

    rate: float
    catch_up_seconds: float | None
    cpu_us: dict[str, float]


Results = dict[str, list[Loaded]]
"""By engine the runs."""


def measure(engines: Sequence[str], runs: int, seconds: int) -> Report:
    """First on CPUs that all share, then with the leader and its clients on one that is theirs alone."""
    circumstances = Circumstances()
    cpus = sorted(os.sched_getaffinity(0))
    results: dict[str, Results] = {}
    failures: list[str] = []
    description: list[str] = []
    for place, leader_cpus in (("on CPUs that all share", None), ("on a CPU of its own", set(cpus[:1]))):
        others = set(cpus) - (leader_cpus or set())
        if not others:
            break
        with on_cpus(others), servers(leader_cpus=leader_cpus) as own:
            results[place] = _of_place(place, engines, own, runs, seconds, failures)
            description = own.description
    facts = circumstances.facts(servers=description, runs=runs, seconds=seconds)
    told = {place: {engine: list(map(asdict, runs)) for engine, runs in of.items()} for place, of in results.items()}
    return Report("leader", [_sheet(place, of) for place, of in results.items()], told, facts, failures)


def _of_place(
    place: str, engines: Sequence[str], own: Servers, runs: int, seconds: int, failures: list[str]
) -> Results:
    results: Results = {engine: [] for engine in (NOBODY, WALSENDER, *engines)}
    take_turns(f"leader {place}", list(results), runs, failures,
               lambda engine, run: results[engine].append(_run(engine, own, run, seconds)))  # fmt: skip
    return results


def _run(engine: str, own: Servers, run: int, seconds: int) -> Loaded:
    def make_tables(dsn: str) -> None:
        items_table(dsn)
        pgbench_tables(dsn, own.programs, 1.0)

    def load(seconds: int) -> float:
        with on_cpus(own.leader_cpus):
            return tpcb_rate(stage.leader, seconds)

    with staged(engine, own, f"leader_{run}", make_tables) as stage:
        if stage.engine.replicates:
            stage.warm_up(0.25)
        load(WARM_UP_SECONDS)
        cpu = Cpu({**stage.engine.daemons(), **stage.engine.helpers()})
        rate, late = load(seconds), None
        if stage.engine.replicates:
            late = stage.wait_for(mark_tpcb(stage.leader.connection)).seconds
        spent = {name: round(spent / (rate * seconds) * 1e6, 1) for name, spent in cpu.spent().items()}
        if stage.engine.replicates:
            stage.compare()
    PROGRESS.print(f"  {rate:,.0f} transactions a second")
    return Loaded(rate, late, spent)


def _sheet(place: str, results: Results) -> Sheet:
    processes = measured(run.cpu_us for runs in results.values() for run in runs)
    columns = ["replicated by", "transactions a second", "loss", "caught up, s later"]
    sheet = Sheet(f"A leader {place}, four clients of TPC-B as fast as they can; by process, CPU us a transaction",
                  [*columns, *processes])  # fmt: skip
    alone = [run.rate for run in counted(results[NOBODY])]
    for engine, all_runs in results.items():
        if runs := counted(all_runs):
            rate = Spread.of([run.rate for run in runs])
            loss = f"{100 * (1 - rate.median / Spread.of(alone).median):.0f} %" if alone and engine != NOBODY else "-"
            waits = [run.catch_up_seconds for run in runs if run.catch_up_seconds is not None]
            late = Spread.of(waits).told(".1f") if waits else "-"
            cpu = [[run.cpu_us[name] for run in runs if name in run.cpu_us] for name in processes]
            spent = [f"{Spread.of(figures).median:.0f}" if figures else "-" for figures in cpu]
            sheet.rows.append([engine, rate.told(",.0f"), loss, late, *spent])
    return sheet
