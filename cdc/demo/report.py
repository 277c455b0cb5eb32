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
        return all(follower.passed for follower in self.followers.values())

    def as_json(self) -> dict[str, Any]:
        head = {"passed": self.passed, "equal": self.equal, "bank_total_differed": self.bank_total_differed}
        return {**head, **asdict(self)}

    def complaint(self) -> str:
        """What did not hold, in one line; empty when all did."""
        return "; ".join(
            f"{name}: {', '.join(found)}"
            for name, follower in self.followers.items()
            if (found := _complaints(follower))
        )


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
        table.add_column(name, justify="right")

    def row(label: str, cells: list[Text | str]) -> None:
        table.add_row(label, *cells)

    each = list(report.followers.values())
    row(f"{report.rows} rows of {len(report.tables)} tables, byte for byte",
        [_verdict(f.equal, "equal", f"differ: {', '.join(f.differing_tables)}") for f in each])  # fmt: skip
    row("lag at the end", [_verdict(f.lag_zero_at_end, "zero", "NOT ZERO") for f in each])
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
    facts.add_row("servers", f"PostgreSQL {report.postgres}; {report.kafka}")
    return facts


def _verdict(good: bool, yes: str, no: str) -> Text:
    return Text(yes, style="green") if good else Text(no, style="bold red")


def _lag(lag: LagMs | None) -> str:
    return f"{lag.p50:.0f} / {lag.p99:.0f} / {lag.max:.0f} ms" if lag else "no sample"
