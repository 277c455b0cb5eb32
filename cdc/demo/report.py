"""What a run of the demo comes to: for machines one JSON object, for people a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True)
class LagMs:
    """From the commit on the leader to the first sight on the follower, in milliseconds."""

    p50: float
    p99: float
    max: float
    transactions: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> LagMs | None:
        """None without a sample."""
        if not seconds:
            return None
        ranked = sorted(seconds)

        def rank(share: float) -> float:
            return round(ranked[max(0, math.ceil(share * len(ranked)) - 1)] * 1000, 1)

        return cls(rank(0.5), rank(0.99), rank(1.0), len(ranked))


@dataclass(frozen=True)
class Kill:
    """A daemon that got SIGKILL and was started again."""

    daemon: str
    at_seconds: float
    """After the beginning of the load."""
    down_seconds: float
    """For how long nobody started it again: on purpose."""
    recovery_seconds: float
    """From the new start until the first new transaction was visible on every follower concerned."""
    caught_up_seconds: float
    """From the new start until everything committed up to the recovery was."""


@dataclass(frozen=True)
class FailoverReport:
    """The leader's server died, with capture beside it, and another node took over.

    Asynchronous replication may lose the last moments: what was acknowledged and is lost is counted, and must be in the
    export of what only the old leader had.
    """

    old_leader: str
    new_leader: str
    promote_to_first_write_seconds: float
    """From the start of `cdc promote` until a client's commit was acknowledged by the new leader."""
    write_outage_seconds: float
    """Between the last commit that a client was told of by the old leader and the first by the new one."""
    promote_seconds: float
    """The whole command."""
    promotion: dict[str, Any]
    """Its own report."""
    rejoin_seconds: float = 0.0
    """From the start of `cdc rejoin` until the old leader had caught up."""
    acknowledged_lost: int = 0
    lost_not_exported: int = 0
    tail_exported: int = 0
    """Transactions that only the old leader had; those that nobody was told of included."""
    tail_changes: int = 0
    equal: bool = False

    @property
    def passed(self) -> bool:
        return self.equal and self.lost_not_exported == 0


@dataclass(frozen=True)
class FollowerReport:
    """One follower's verdict."""

    equal: bool
    differing_tables: list[str]
    lag_zero_at_end: bool
    lag_ms: LagMs | None
    """Over the whole run, the kills included."""
    undisturbed_lag_ms: LagMs | None
    """Without the transactions that a kill held up."""
    snapshots: int
    bank_total_differed: bool
    torn_snapshots: bool
    ledger_had_holes: bool
    refuses_writes: bool
    rows_written: int
    """Inserted, updated and deleted rows by the follower's own count, bootstrap included."""
    leads_now: bool = False
    """All the rest is what it showed before; the others were compared with it."""

    @property
    def passed(self) -> bool:
        return (
            self.equal and self.lag_zero_at_end and self.refuses_writes and self.snapshots > 0
            and not (self.bank_total_differed or self.torn_snapshots or self.ledger_had_holes)
        )  # fmt: skip


@dataclass(frozen=True)
class TableReport:
    """One table of the leader as it was compared."""

    rows: int
    sha256: str


@dataclass(frozen=True)
class Report:
    """The whole run."""

    kafka: str
    kafka_durable: bool
    postgres: str
    wanted_transactions_per_second: float
    transactions: int
    transactions_per_second: float
    rows_written: int
    rows_written_per_second: float
    rows: int
    """Compared on each node."""
    seconds: dict[str, float]
    followers: dict[str, FollowerReport]
    kills: list[Kill]
    tables: dict[str, TableReport]
    failover: FailoverReport | None = None
    daemon_exit_codes: dict[str, int | None] = field(default_factory=dict)
    """After SIGTERM; empty when the daemons were left running."""

    @property
    def equal(self) -> bool:
        return all(follower.equal for follower in self.followers.values())

    @property
    def bank_total_differed(self) -> bool:
        return any(follower.bank_total_differed for follower in self.followers.values())

    @property
    def passed(self) -> bool:
        followers_passed = all(follower.passed for follower in self.followers.values())
        return followers_passed and (self.failover is None or self.failover.passed)

    def as_json(self) -> dict[str, Any]:
        head = {"passed": self.passed, "equal": self.equal, "bank_total_differed": self.bank_total_differed}
        return {**head, **asdict(self)}

    def complaint(self) -> str:
        """What did not hold, in one line; empty when all did."""
        complaints = [
            f"{name}: {', '.join(found)}"
            for name, follower in self.followers.items()
            if (found := _complaints(follower))
        ]
        if self.failover is not None and self.failover.lost_not_exported:
            complaints.append(f"{self.failover.lost_not_exported} acknowledged transactions are lost and nowhere named")
        return "; ".join(complaints)


def _complaints(follower: FollowerReport) -> list[str]:
    found = {
        f"rows differ in {', '.join(follower.differing_tables)}": not follower.equal,
        "lag did not go to zero": not follower.lag_zero_at_end,
        "the bank's total differed": follower.bank_total_differed,
        "part of a transaction was visible": follower.torn_snapshots,
        "the ledger had holes": follower.ledger_had_holes,
        "no snapshot was looked at": follower.snapshots == 0,
        "it took a write": not follower.refuses_writes,
    }
    return [complaint for complaint, holds in found.items() if holds]


def print_report(console: Console, report: Report) -> None:
    console.print()
    console.print(_followers(report))
    console.print(_facts(report))


def _followers(report: Report) -> Table:
    table = Table(title="what each follower showed", title_justify="left", header_style="bold")
    table.add_column("")
    for name in report.followers:
        table.add_column(f"{name} (leads now)" if report.followers[name].leads_now else name, justify="right")

    def row(label: str, cells: list[Text | str]) -> None:
        table.add_row(label, *cells)

    each = list(report.followers.values())
    row(f"{report.rows} rows of {len(report.tables)} tables, byte for byte",
        ["-" if f.leads_now else _verdict(f.equal, "equal", f"differ: {', '.join(f.differing_tables)}")
         for f in each])  # fmt: skip
    row("lag at the end", ["-" if f.leads_now else _verdict(f.lag_zero_at_end, "zero", "NOT ZERO") for f in each])
    row("snapshots looked at under load", [str(f.snapshots) for f in each])
    row("bank's total in them", [_verdict(not f.bank_total_differed, "always the same", "DIFFERED") for f in each])
    row("transactions in them", [_verdict(not f.torn_snapshots, "whole", "TORN") for f in each])
    row("ledger in them", [_verdict(not f.ledger_had_holes, "in order, no holes", "HOLES") for f in each])
    row("a write by an ordinary role", [_verdict(f.refuses_writes, "refused", "TAKEN") for f in each])
    row("lag, undisturbed: p50 / p99 / max", [_lag(f.undisturbed_lag_ms) for f in each])
    row("lag, with the kills: p50 / p99 / max", [_lag(f.lag_ms) for f in each])
    row("verdict", [_verdict(f.passed, "PASSED", "FAILED") for f in each])
    return table


def _facts(report: Report) -> Table:
    facts = Table.grid(padding=(0, 2))
    facts.add_row(
        "leader",
        f"{report.transactions} transactions ({report.transactions_per_second:.0f} a second; asked for "
        f"{report.wanted_transactions_per_second:g}) that wrote {report.rows_written} rows "
        f"({report.rows_written_per_second:.0f} a second)",
    )
    for kill in report.kills:
        facts.add_row(
            f"kill -9 {kill.daemon}",
            f"left dead for {kill.down_seconds:.1f} s; after its restart new transactions arrived in "
            f"{kill.recovery_seconds:.1f} s, all of the backlog in {kill.caught_up_seconds:.1f} s",
        )
    if report.failover is not None:
        _add_failover(facts, report.failover)
    facts.add_row("servers", f"PostgreSQL {report.postgres}; {report.kafka}")
    return facts


def _add_failover(facts: Table, failover: FailoverReport) -> None:
    old, new = failover.old_leader, failover.new_leader
    facts.add_row(
        f"{old} dark",
        f"{new} took the first write {failover.promote_to_first_write_seconds:.1f} s after cdc promote was started; "
        f"clients were without a leader for {failover.write_outage_seconds:.1f} s",
    )
    lost = f"{failover.acknowledged_lost} acknowledged transactions"
    if failover.lost_not_exported:
        lost = f"{lost}, {failover.lost_not_exported} of them NOT EXPORTED"
    facts.add_row("lost with it", lost)
    facts.add_row(
        f"cdc rejoin {old}",
        f"exported {failover.tail_exported} transactions that only it had; follows and has caught up after "
        f"{failover.rejoin_seconds:.1f} s",
    )


def _verdict(good: bool, yes: str, no: str) -> Text:
    return Text(yes, style="green") if good else Text(no, style="bold red")


def _lag(lag: LagMs | None) -> str:
    return f"{lag.p50:.0f} / {lag.p99:.0f} / {lag.max:.0f} ms" if lag else "no sample"
