"""What replication costs the leader: pgbench's rate with nobody, and with each engine beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from tests.benchmarks.figures import Spread, counted
from tests.benchmarks.processes import Cpu
from tests.benchmarks.report import PROGRESS, Circumstances, Report, Sheet
from tests.benchmarks.servers import Servers, servers
from tests.benchmarks.stage import staged, take_turns
from tests.benchmarks.workloads import items_table, mark_tpcb, pgbench_tables, tpcb_rate

NOBODY = "nobody"


@dataclass(frozen=True)
class Loaded:
    """Transactions a second, how long after the load the follower needed for the rest, and by process microseconds of
    CPU a transaction."""

    rate: float
    catch_up_seconds: float
    cpu_us: dict[str, float]


Results = dict[str, list[Loaded]]


def measure(engines: Sequence[str], runs: int, seconds: int) -> Report:
    circumstances = Circumstances()
    results: Results = {engine: [] for engine in (NOBODY, *engines)}
    failures: list[str] = []
    with servers() as own:
        take_turns("leader", list(results), runs, failures,
                   lambda engine, run: results[engine].append(_run(engine, own, run, seconds)))  # fmt: skip
        facts = circumstances.facts(servers=own.description, runs=runs, seconds=seconds)
    told = {engine: list(map(asdict, runs)) for engine, runs in results.items()}
    return Report("leader", [_sheet(results)], told, facts, failures)


def _run(engine: str, own: Servers, run: int, seconds: int) -> Loaded:
    def make_tables(dsn: str) -> None:
        items_table(dsn)
        pgbench_tables(dsn, own.programs, 1.0)

    with staged(engine, own, f"leader_{run}", make_tables) as stage:
        if engine == NOBODY:
            found = Loaded(tpcb_rate(stage.leader, seconds), 0.0, {})
        else:
            stage.warm_up(0.25)
            cpu = Cpu({**stage.engine.daemons(), **stage.engine.helpers()})
            rate = tpcb_rate(stage.leader, seconds)
            late = stage.wait_for(mark_tpcb(stage.leader.connection)).seconds
            found = Loaded(
                rate, late, {name: round(spent / (rate * seconds) * 1e6, 1) for name, spent in cpu.spent().items()}
            )
            stage.compare()
    PROGRESS.print(f"  {found.rate:,.0f} transactions a second, caught up {found.catch_up_seconds:.1f} s later")
    return found


def _sheet(results: Results) -> Sheet:
    columns = ["replicated by", "transactions a second", "loss", "caught up, s later"]
    sheet = Sheet("A leader under pgbench's TPC-B, four clients as fast as they can", columns)
    alone = [run.rate for run in counted(results[NOBODY])]
    for engine, all_runs in results.items():
        if runs := counted(all_runs):
            rate = Spread.of([run.rate for run in runs])
            loss = f"{100 * (1 - rate.median / Spread.of(alone).median):.0f} %" if alone and engine != NOBODY else "-"
            late = Spread.of([run.catch_up_seconds for run in runs]).told(".1f") if engine != NOBODY else "-"
            sheet.rows.append([engine, rate.told(",.0f"), loss, late])
    return sheet
