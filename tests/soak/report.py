"""What a run has to say at its end, as JSON and for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import orjson

from tests.soak.findings import Findings, Violation
from tests.soak.resources import Memory

_MEGABYTE = 2**20


@dataclass(frozen=True)
class Recovery:
    """From the end of a fault until every follower showed what was committed by then."""

    count: int
    p50_seconds: float
    max_seconds: float


@dataclass(frozen=True)
class DaemonReport:
    rss_min_mb: float
    rss_max_mb: float
    rss_slope_mb_per_hour: float | None
    """Of what was resident at the rests; a daemon that a fault ended begins low again."""
    fds_at_rest: list[int]
    threads_at_rest: list[int]


@dataclass(frozen=True)
class Report:
    """Ends in `passed`: no violation, and it came to its end."""

    seed: int
    minutes: float
    seconds: float
    rounds: int
    finished: bool
    faults: dict[str, int]
    skipped: dict[str, int]
    violations: list[Violation]
    notes: list[str]
    recovery: dict[str, Recovery]
    recovery_all: Recovery | None
    daemons: dict[str, DaemonReport]
    transactions: int
    transactions_in_log: int
    snapshots: dict[str, int]
    slot_checks: int
    rests: int
    rows_compared: int
    retained_wal_max_mb: float
    folder: str

    @property
    def passed(self) -> bool:
        return self.finished and not self.violations

    def write(self, file: Path) -> None:
        file.write_bytes(orjson.dumps({**asdict(self), "passed": self.passed}, option=orjson.OPT_INDENT_2) + b"\n")

    def lines(self) -> Iterator[str]:
        faults = ", ".join(f"{name} {count}" for name, count in sorted(self.faults.items()))
        count = sum(self.faults.values())
        yield f"seed {self.seed}: {self.seconds / 60:.1f} minutes, {self.rounds} rounds, {count} faults"
        yield f"  faults: {faults or 'none'}"
        if self.skipped:
            yield f"  skipped, this machine cannot: {', '.join(f'{name} {n}' for name, n in self.skipped.items())}"
        yield (
            f"  {self.transactions} transactions, {sum(self.snapshots.values())} snapshots of followers, "
            f"{self.slot_checks} looks at slot and log, {self.rests} comparisons of {self.rows_compared} rows in all"
        )
        if self.recovery_all:
            one = self.recovery_all
            yield f"  recovery: p50 {one.p50_seconds:.1f} s, max {one.max_seconds:.1f} s in {one.count} single faults"
        for name, daemon in self.daemons.items():
            slope = "" if daemon.rss_slope_mb_per_hour is None else f", slope {daemon.rss_slope_mb_per_hour:+.1f} MB/h"
            yield f"  {name}: {daemon.rss_min_mb:.0f} to {daemon.rss_max_mb:.0f} MB resident{slope}"
        for note in self.notes:
            yield f"  note: {note}"
        for violation in self.violations:
            yield f"  VIOLATION at {violation.at} s ({violation.moment}): {violation.what}"
        yield "no violation" if self.passed else ("not finished" if not self.violations else f"logs: {self.folder}")


def daemons_of(memory: Mapping[str, Memory]) -> dict[str, DaemonReport]:
    return {
        name: DaemonReport(
            round(one.least / _MEGABYTE, 1),
            round(one.most / _MEGABYTE, 1),
            None if one.slope_mb_per_hour is None else round(one.slope_mb_per_hour, 1),
            [held.fds for held in one.at_rest],
            [held.threads for held in one.at_rest],
        )
        for name, one in memory.items()
    }


def recovery_of(findings: Findings) -> tuple[dict[str, Recovery], Recovery | None]:
    """By fault, and of all."""
    by_fault = {name: _recovery(seconds) for name, seconds in sorted(findings.recovery_seconds.items())}
    every = [second for seconds in findings.recovery_seconds.values() for second in seconds]
    return by_fault, _recovery(every) if every else None


def _recovery(seconds: list[float]) -> Recovery:
    return Recovery(len(seconds), round(median(seconds), 2), round(max(seconds), 2))
