"""What replication costs the leader: pgbench's rate with nobody, with a walsender for nobody, with each engine; the WAL
that it keeps for them meanwhile, and how often both servers wait for their disk.

Where the leader has a CPU for itself, also with nobody while the others are busy: CPUs of one machine share caches and
memory, and slow each other down, which those of two machines do not.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import psycopg

from tests.benchmarks.engines import BUSY, NOBODY, WALSENDER
from tests.benchmarks.figures import Spread, counted
from tests.benchmarks.meanwhile import Meanwhile
from tests.benchmarks.processes import Cpu, measured, on_cpus
from tests.benchmarks.report import PROGRESS, Circumstances, Report, Sheet
from tests.benchmarks.servers import Servers, servers
from tests.benchmarks.stage import asked, staged, take_turns
from tests.benchmarks.workloads import items_table, mark_tpcb, pgbench_tables, tpcb_rate

WARM_UP_SECONDS = 15
"""Of the same load, which are not counted: caches fill, and the broker compiles what it runs."""
_LOOK_SECONDS = 0.25
_KEPT = """
    SELECT pg_wal_lsn_diff(now, restart_lsn), pg_wal_lsn_diff(now, confirmed_flush_lsn)
    FROM pg_replication_slots, pg_current_wal_lsn() AS now WHERE database = current_database()
"""
_FSYNCS = "SELECT sum(fsyncs) FROM pg_stat_io"


@dataclass(frozen=True)
class Loaded:
    """Transactions a second, how long after the load the follower needed for the rest (where there is one), by process
    microseconds of CPU a transaction, the most WAL in MB that the leader kept for the slot and that was not confirmed
    (where there is one), and fsyncs a second by server."""

    rate: float
    catch_up_seconds: float | None
    cpu_us: dict[str, float]
    wal_mb: dict[str, float]
    fsyncs: dict[str, float]


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
    sheets = [sheet for place, of in results.items() for sheet in _sheets(place, of)]
    return Report("leader", sheets, told, facts, failures)


def _of_place(
    place: str, engines: Sequence[str], own: Servers, runs: int, seconds: int, failures: list[str]
) -> Results:
    alone = (NOBODY, BUSY) if own.leader_cpus else (NOBODY,)
    results: Results = {engine: [] for engine in (*alone, WALSENDER, *engines)}
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
        nodes = {"leader": stage.leader.connection, "follower": stage.followers[0]}
        before = {name: asked(connection, _FSYNCS) for name, connection in nodes.items()}
        with KeptWal(stage.leader.dsn) as kept:
            rate, late = load(seconds), None
        fsyncs = {name: round((asked(nodes[name], _FSYNCS) - count) / seconds, 1) for name, count in before.items()}
        if stage.engine.replicates:
            late = stage.wait_for(mark_tpcb(stage.leader.connection)).seconds
        spent = {name: round(spent / (rate * seconds) * 1e6, 1) for name, spent in cpu.spent().items()}
        if stage.engine.replicates:
            stage.compare()
    PROGRESS.print(f"  {rate:,.0f} transactions a second")
    return Loaded(rate, late, spent, kept.most_mb, fsyncs)


class KeptWal(Meanwhile):
    """The most WAL, in MB, that a leader keeps for the slot of this database while the `with` lasts; of it what was not
    confirmed. Nothing where there is no slot."""

    def __init__(self, dsn: str) -> None:
        super().__init__()
        self.most_mb: dict[str, float] = {}
        self._dsn = dsn

    def _work(self) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            while not self._done.wait(_LOOK_SECONDS):
                for row in connection.execute(_KEPT.encode()).fetchall():
                    for name, size in zip(("kept", "unconfirmed"), row, strict=True):
                        self.most_mb[name] = max(self.most_mb.get(name, 0.0), round(float(size) / 1e6, 1))


def _sheets(place: str, results: Results) -> list[Sheet]:
    of = {engine: list(counted(runs)) for engine, runs in results.items() if runs}
    return [_rates(place, of), _disks(place, of)]


def _rates(place: str, results: Results) -> Sheet:
    processes = measured(run.cpu_us for runs in results.values() for run in runs)
    alone = {engine: Spread.of([run.rate for run in results[engine]]) for engine in (NOBODY, BUSY) if engine in results}
    sheet = Sheet(f"A leader {place}, four clients of TPC-B as fast as they can; by process, CPU us a transaction",
                  ["replicated by", "transactions a second", *(f"loss to {engine}" for engine in alone),
                   "caught up, s later", *processes])  # fmt: skip
    for engine, runs in results.items():
        rate = Spread.of([run.rate for run in runs])
        losses = ["-" if engine in (NOBODY, other) else _loss(rate, most) for other, most in alone.items()]
        waits = [run.catch_up_seconds for run in runs if run.catch_up_seconds is not None]
        late = Spread.of(waits).told(".1f") if waits else "-"
        cpu = _medians([run.cpu_us for run in runs], processes)
        sheet.rows.append([engine, rate.told(",.0f"), *losses, late, *cpu])
    return sheet


def _loss(rate: Spread, alone: Spread) -> str:
    return f"{100 * (1 - rate.median / alone.median):.0f} %"


def _disks(place: str, results: Results) -> Sheet:
    sheet = Sheet(
        f"A leader {place}: its WAL, and waiting for disks",
        ["replicated by", "most WAL kept, MB", "not confirmed, MB", "fsyncs a second: leader", "follower"],
    )
    for engine, runs in results.items():
        wal = _medians([run.wal_mb for run in runs], ("kept", "unconfirmed"))
        fsyncs = _medians([run.fsyncs for run in runs], ("leader", "follower"))
        sheet.rows.append([engine, *wal, *fsyncs])
    return sheet


def _medians(runs: Sequence[Mapping[str, float]], names: Sequence[str]) -> list[str]:
    found = [[run[name] for run in runs if name in run] for name in names]
    return [f"{Spread.of(figures).median:,.0f}" if figures else "-" for figures in found]
