"""From what was seen to the report."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from cdc.demo.compare import TableDigest, differing
from cdc.demo.faults import Disturbance
from cdc.demo.report import FailoverReport, FollowerReport, Kill, LagMs, Report, TableReport
from cdc.demo.scene import Scene
from cdc.demo.servers import NODES, Servers
from cdc.demo.watch import Sight


@dataclass
class Findings:
    """What the story collects on its way."""

    live_from: int = 0
    """The first transaction whose lag counts: before it the followers were still being made."""
    kills: list[Kill] = field(default_factory=list)
    disturbances: list[Disturbance] = field(default_factory=list)
    refuses_writes: dict[str, bool] = field(default_factory=dict)
    lag_zero_at_end: dict[str, bool] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    failover: FailoverReport | None = None
    exported: frozenset[uuid.UUID] = frozenset()
    """Receipts of the transactions that only the old leader had."""


def judge(
    scene: Scene, servers: Servers, rate: float, findings: Findings, nodes: Mapping[str, Mapping[str, TableDigest]]
) -> Report:
    """`nodes` holds the digests of all tables by node."""
    seconds = scene.load.seconds
    tables = {name: TableReport(digest.rows, digest.sha256) for name, digest in nodes[scene.leader].items()}
    followers = {name: _follower(scene, name, findings, nodes) for name in NODES if name in scene.sights}
    equal = all(follower.equal for follower in followers.values())
    return Report(
        kafka=servers.kafka.description,
        kafka_durable=servers.kafka.durable,
        postgres=servers.postgres[scene.leader].version,
        wanted_transactions_per_second=rate,
        transactions=scene.journal.transactions,
        transactions_per_second=round(scene.journal.transactions / seconds, 1),
        rows_written=scene.leader_watch.rows_written,
        rows_written_per_second=round(scene.leader_watch.rows_written / seconds, 1),
        rows=sum(table.rows for table in tables.values()),
        seconds=findings.seconds,
        followers=followers,
        kills=findings.kills,
        tables=tables,
        failover=replace(findings.failover, equal=equal) if findings.failover else None,
    )


def _follower(
    scene: Scene, name: str, findings: Findings, nodes: Mapping[str, Mapping[str, TableDigest]]
) -> FollowerReport:
    sight, auditor = scene.sights[name], scene.auditors[name]
    disturbances = [disturbance for disturbance in findings.disturbances if disturbance.follower == name]
    tables = differing(nodes[scene.leader], nodes[name])
    leads, takeover = name == scene.leader, scene.journal.takeover
    last = takeover.first_number - 1 if leads and takeover else scene.journal.newest
    numbers = range(findings.live_from, last + 1)
    return FollowerReport(
        leads_now=leads,
        equal=not tables,
        differing_tables=tables,
        lag_zero_at_end=leads or findings.lag_zero_at_end[name],
        lag_ms=_lag(scene, sight, numbers, []),
        undisturbed_lag_ms=_lag(scene, sight, numbers, disturbances),
        snapshots=auditor.snapshots,
        bank_total_differed=auditor.bank_total_differed,
        torn_snapshots=auditor.torn,
        ledger_had_holes=auditor.had_holes,
        refuses_writes=findings.refuses_writes[name],
        rows_written=auditor.rows_written,
    )


def _lag(scene: Scene, sight: Sight, numbers: range, without: Sequence[Disturbance]) -> LagMs | None:
    lags = []
    for number in numbers:
        committed, seen = scene.journal.committed_at(number), sight.seen_at(number)
        if committed is None or seen is None:
            continue
        if not any(disturbance.held_up(committed, seen) for disturbance in without):
            lags.append(max(0.0, seen - committed))
    return LagMs.of(lags)
