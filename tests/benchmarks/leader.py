"""What replication costs the leader: pgbench's rate beside each engine, and while the engine's walsender is held, by
turns of two seconds; the WAL that the leader keeps for it meanwhile, and how often both servers wait for their disk.

A leader whose walsender is held has nobody beside it, and is the same one, with the same tables, a moment later: what
else the machine does changes by the minute, and more than replication costs. What its host takes is known: turns in
which that was more than a hundredth of the CPU time do not count, where enough others are left.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from statistics import median

import psycopg

from cdc.local.processes import wait_for
from tests.benchmarks.engines import WALSENDER
from tests.benchmarks.figures import Spread, counted
from tests.benchmarks.meanwhile import Meanwhile
from tests.benchmarks.processes import Cpu, measured, on_cpus
from tests.benchmarks.report import PROGRESS, Circumstances, NoResult, Report, Sheet, StolenTime
from tests.benchmarks.servers import Servers, servers
from tests.benchmarks.stage import Stage, asked, staged, take_turns
from tests.benchmarks.workloads import items_table, mark_tpcb, pgbench_tables, tpcb_rate

WARM_UP_SECONDS = 15
"""Of the same load, which are not counted: caches fill, and the broker compiles what it runs."""
_TURN_SECONDS = 2
_SETTLE_SECONDS = 1
"""Of a turn, before what counts: clients connect, and the engine finds its pace."""
_SENT_SECONDS = 60.0
_LOOK_SECONDS = 0.25
_QUIET_PERCENT = 1.0
_ENOUGH_TURNS = 5
_KEPT = """
    SELECT pg_wal_lsn_diff(now, restart_lsn), pg_wal_lsn_diff(now, confirmed_flush_lsn)
    FROM pg_replication_slots, pg_current_wal_lsn() AS now WHERE database = current_database()
"""
_FSYNCS = "SELECT sum(fsyncs) FROM pg_stat_io"
_SENT = """
    SELECT count(*) FROM pg_stat_replication, pg_current_wal_flush_lsn() AS now
    WHERE pid IN (SELECT active_pid FROM pg_replication_slots WHERE database = current_database()) AND sent_lsn >= now
"""


@dataclass(frozen=True)
class Beside:
    """The leader with an engine: transactions a second; how long after that the follower needed for the rest (where
    there is one), by process microseconds of CPU a transaction, the most WAL in MB that the leader kept for the slot
    and that was not confirmed, and fsyncs a second by server."""

    rate: float
    catch_up_seconds: float | None
    cpu_us: dict[str, float]
    wal_mb: dict[str, float]
    fsyncs: dict[str, float]


@dataclass(frozen=True)
class Turn:
    """Beside an engine, and transactions a second with nobody; and the share of CPU time that the host took."""

    beside: Beside
    alone: float
    stolen_percent: float

    @property
    def loss(self) -> float:
        """In percent."""
        return 100 * (1 - self.beside.rate / self.alone)


Results = dict[str, list[list[Turn]]]
"""By engine the runs, each with its turns."""


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
    told = {
        place: {engine: [list(map(asdict, turns)) for turns in runs] for engine, runs in of.items()}
        for place, of in results.items()
    }
    sheets = [sheet for place, of in results.items() for sheet in _sheets(place, of)]
    return Report("leader", sheets, told, facts, failures)


def _of_place(
    place: str, engines: Sequence[str], own: Servers, runs: int, seconds: int, failures: list[str]
) -> Results:
    results: Results = {engine: [] for engine in (WALSENDER, *engines)}
    take_turns(f"leader {place}", list(results), runs, failures,
               lambda engine, run: results[engine].append(_run(engine, own, run, seconds)))  # fmt: skip
    return results


def _run(engine: str, own: Servers, run: int, seconds: int) -> list[Turn]:
    def make_tables(dsn: str) -> None:
        items_table(dsn)
        pgbench_tables(dsn, own.programs, 1.0)

    with staged(engine, own, f"leader_{run}", make_tables) as stage:
        if stage.engine.replicates:
            stage.warm_up(0.25)
        _load(stage, own, WARM_UP_SECONDS)
        _catch_up(stage)
        turns = [_turn(stage, own, number % 2 == 0) for number in range(max(seconds // _TURN_SECONDS, 1))]
        if stage.engine.replicates:
            stage.compare()
    rate, alone = median(turn.beside.rate for turn in turns), median(turn.alone for turn in turns)
    PROGRESS.print(f"  {rate:,.0f} transactions a second, alone {alone:,.0f}")
    return turns


def _turn(stage: Stage, own: Servers, alone_first: bool) -> Turn:
    stolen = StolenTime()
    if alone_first:
        alone, beside = _alone(stage, own), _beside(stage, own)
    else:
        beside, alone = _beside(stage, own), _alone(stage, own)
    return Turn(beside, alone, stolen.percent())


def _beside(stage: Stage, own: Servers) -> Beside:
    _load(stage, own, _SETTLE_SECONDS)
    cpu = Cpu({**stage.engine.daemons(), **stage.engine.helpers()})
    nodes = {"leader": stage.leader.connection, "follower": stage.followers[0]}
    before = {name: asked(connection, _FSYNCS) for name, connection in nodes.items()}
    with KeptWal(stage.leader.dsn) as kept:
        rate = _load(stage, own, _TURN_SECONDS)
    # The rest, which comes later, is about as much as there was of the time before.
    spent = {name: round(seconds / (rate * _TURN_SECONDS) * 1e6, 1) for name, seconds in cpu.spent().items()}
    fsyncs = {name: round((asked(nodes[name], _FSYNCS) - was) / _TURN_SECONDS, 1) for name, was in before.items()}
    return Beside(rate, _catch_up(stage), spent, kept.most_mb, fsyncs)


def _alone(stage: Stage, own: Servers) -> float:
    with stage.engine.held():
        _load(stage, own, _SETTLE_SECONDS)
        rate = _load(stage, own, _TURN_SECONDS)
    _catch_up(stage)
    return rate


def _load(stage: Stage, own: Servers, seconds: int) -> float:
    with on_cpus(own.leader_cpus):
        return tpcb_rate(stage.leader, seconds)


def _catch_up(stage: Stage) -> float | None:
    """How many seconds the follower needed for all that there is; None where there is none, and all is sent."""
    if stage.engine.replicates:
        return stage.wait_for(mark_tpcb(stage.leader.connection)).seconds
    if not wait_for(lambda: asked(stage.leader.connection, _SENT) == 1, seconds=_SENT_SECONDS):
        raise NoResult(f"{stage.engine.name} did not keep up")
    return None


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
    every = {engine: [*chain(*counted(runs))] for engine, runs in results.items() if runs}
    of = {engine: quiet(turns) for engine, turns in every.items()}
    counts = {engine: f"{len(turns)} of {len(every[engine])}" for engine, turns in of.items()}
    return [_rates(place, of, counts), _disks(place, of)]


def quiet(turns: Sequence[Turn]) -> Sequence[Turn]:
    """Those that the host left alone; all, where these are too few."""
    quiet = [turn for turn in turns if turn.stolen_percent <= _QUIET_PERCENT]
    return quiet if len(quiet) >= _ENOUGH_TURNS else turns


def _rates(place: str, results: Mapping[str, Sequence[Turn]], counts: Mapping[str, str]) -> Sheet:
    processes = measured(turn.beside.cpu_us for turn in chain(*results.values()))
    sheet = Sheet(f"A leader {place}, four clients of TPC-B as fast as they can: transactions a second; loss (of "
                  "half of the turns); how late the follower was; by process, CPU us a transaction",
                  ["replicated by", "turns", "beside it", "alone", "loss, %", "late, s", *processes])  # fmt: skip
    for engine, turns in results.items():
        rate, alone = median(turn.beside.rate for turn in turns), median(turn.alone for turn in turns)
        loss = Spread.of_middle_half([turn.loss for turn in turns]).told(".0f")
        waits = [turn.beside.catch_up_seconds for turn in turns if turn.beside.catch_up_seconds is not None]
        late = f"{median(waits):.2f}" if waits else "-"
        cpu = _medians([turn.beside.cpu_us for turn in turns], processes)
        sheet.rows.append([engine, counts[engine], f"{rate:,.0f}", f"{alone:,.0f}", loss, late, *cpu])
    return sheet


def _disks(place: str, results: Mapping[str, Sequence[Turn]]) -> Sheet:
    sheet = Sheet(
        f"A leader {place}: its WAL, and waiting for disks",
        ["replicated by", "most WAL kept, MB", "not confirmed, MB", "fsyncs a second: leader", "follower"],
    )
    for engine, turns in results.items():
        wal = _medians([turn.beside.wal_mb for turn in turns], ("kept", "unconfirmed"))
        fsyncs = _medians([turn.beside.fsyncs for turn in turns], ("leader", "follower"))
        sheet.rows.append([engine, *wal, *fsyncs])
    return sheet


def _medians(turns: Sequence[Mapping[str, float]], names: Sequence[str]) -> list[str]:
    found = [[turn[name] for turn in turns if name in turn] for name in names]
    return [f"{median(figures):,.0f}" if figures else "-" for figures in found]
