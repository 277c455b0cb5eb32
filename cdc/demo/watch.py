"""Looks at a follower as its readers do, and at how far it is behind.

Two threads a follower, each with connections of its own: one asks every few milliseconds for the newest
number of the ledger, which dates the moment a transaction became visible (on the clock that dated its
commit); the other takes snapshots and holds them against what must be true of every state the leader had.
"""

from __future__ import annotations

import bisect
import time
from collections import deque
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

import psycopg

from cdc.demo.background import Background
from cdc.demo.load import Journal
from cdc.demo.shop import BANK_TOTAL, TRANSFER

LOOK_EVERY_SECONDS = 0.005
"""How exact lag in milliseconds is."""
_SNAPSHOT_EVERY_SECONDS = 0.25
_RATE_SECONDS = 4.0
_RECENT_SECONDS = 2.0
_CONNECT_SECONDS = 3

_NEWEST = "SELECT coalesce(max(number), 0) FROM ledger"
_WAL_END = "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"
_APPLIED_UP_TO = "SELECT end_lsn - '0/0'::pg_lsn FROM cdc.position"
_ROWS_WRITTEN = """
SELECT coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0) FROM pg_stat_user_tables WHERE schemaname = 'public'
"""
_BANK_TOTAL = "SELECT sum(balance)::bigint FROM bank_accounts"
_WRONG_BRANCHES = """
SELECT count(*) FROM bank_branches AS b
WHERE balance <> (SELECT sum(balance) FROM bank_accounts WHERE branch_id = b.id)
"""
_LEDGER = "SELECT count(*), coalesce(max(number), 0), count(*) FILTER (WHERE kind = %s) FROM ledger"
_TRANSFERS = "SELECT count(*) FROM bank_history"


class Meter:
    """How fast a counter grows, over the last few seconds."""

    def __init__(self) -> None:
        self._points: deque[tuple[float, int]] = deque()

    def note(self, count: int) -> None:
        now = time.monotonic()
        self._points.append((now, count))
        while self._points[0][0] < now - _RATE_SECONDS:
            self._points.popleft()

    @property
    def per_second(self) -> float:
        if len(self._points) < 2:
            return 0.0
        (first_at, first), (last_at, last) = self._points[0], self._points[-1]
        return (last - first) / max(0.001, last_at - first_at)


class Sight:
    """Which transactions of the load are visible on a follower, and since when."""

    def __init__(self, name: str, dsn: str, journal: Journal) -> None:
        self.newest = 0
        self._dsn = dsn
        self._journal = journal
        # Ranges of numbers that became visible at once: the last of each, and when.
        self._lasts: list[int] = []
        self._moments: list[float] = []
        self._first = 0
        self.thread = Background(f"{name} newest transaction", self._look)

    def _look(self, wait: Callable[[float], bool]) -> None:
        with psycopg.connect(self._dsn, application_name="shop reader", autocommit=True) as connection:
            self._first = self._ask(connection)
            self.newest = self._first
            while not wait(LOOK_EVERY_SECONDS):
                newest = self._ask(connection)
                if newest > self.newest:
                    self._moments.append(time.monotonic())
                    self._lasts.append(newest)
                    self.newest = newest

    def _ask(self, connection: psycopg.Connection) -> int:
        row = connection.execute(_NEWEST).fetchone()
        assert row is not None
        return int(row[0])

    def seen_at(self, number: int) -> float | None:
        """When `number` was first seen; None when it was not yet, or was there before the first look."""
        index = bisect.bisect_left(self._lasts, number)
        return self._moments[index] if self._first < number <= self.newest and index < len(self._moments) else None

    def lag_seconds(self, number: int) -> float | None:
        """From the commit on the leader to the first sight here; None when either is not known."""
        committed, seen = self._journal.committed_at(number), self.seen_at(number)
        return None if committed is None or seen is None else max(0.0, seen - committed)

    def lag_seconds_now(self) -> float:
        """The median of the last moments, or how long the oldest invisible transaction waits, if that is more."""
        now = time.monotonic()
        oldest = self._journal.committed_at(self.newest + 1)
        pending = 0.0 if oldest is None else now - oldest
        index = bisect.bisect_left(self._moments, now - _RECENT_SECONDS)
        recent = sorted(lag for last in self._lasts[index:] if (lag := self.lag_seconds(last)) is not None)
        return max(pending, recent[len(recent) // 2] if recent else 0.0)


@dataclass(frozen=True)
class Snapshot:
    """What one snapshot of a follower showed."""

    bank_total: int
    whole: bool
    """Branches hold what their accounts hold, and every transfer of the ledger is in the bank's history."""
    hole_free: bool
    """The ledger goes from 1 to its newest number."""
    pending_bytes: int | None
    """WAL of the leader that is not applied here; None while nobody leads."""


class Leader:
    """Asks the node that leads at the moment, and takes no answer for one: it may be dead."""

    def __init__(self, dsn: Callable[[], str]) -> None:
        self.dsn = ""
        """Whom the last answer came from."""
        self._dsn = dsn
        self._connection: psycopg.Connection | None = None

    def number(self, query: str) -> int | None:
        try:
            if self._connection is None or self.dsn != self._dsn():
                self.close()
                self.dsn = self._dsn()
                self._connection = psycopg.connect(
                    self.dsn, application_name="shop auditor", autocommit=True, connect_timeout=_CONNECT_SECONDS
                )
            return _number(self._connection, query)
        except psycopg.OperationalError:
            self.close()
            return None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None


class Auditor:
    """Holds snapshot after snapshot against what was true of every state of the leader."""

    def __init__(self, name: str, dsn: str, leader_dsn: Callable[[], str]) -> None:
        self.snapshots = 0
        self.bank_total_differed = False
        self.torn = False
        self.had_holes = False
        self.latest: Snapshot | None = None
        self.rows = Meter()
        self.rows_written = 0
        self._dsn, self._leader_dsn = dsn, leader_dsn
        self.thread = Background(f"{name} snapshots", self._audit)

    @property
    def passed(self) -> bool:
        return self.snapshots > 0 and not (self.bank_total_differed or self.torn or self.had_holes)

    def _audit(self, wait: Callable[[float], bool]) -> None:
        with (
            closing(Leader(self._leader_dsn)) as leader,
            psycopg.connect(self._dsn, application_name="shop auditor", autocommit=True) as follower,
        ):
            follower.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            follower.read_only = True
            while True:
                self._judge(_snapshot(leader, follower))
                self.rows_written = _number(follower, _ROWS_WRITTEN)
                self.rows.note(self.rows_written)
                if wait(_SNAPSHOT_EVERY_SECONDS):
                    return

    def _judge(self, snapshot: Snapshot) -> None:
        self.bank_total_differed |= snapshot.bank_total != BANK_TOTAL
        self.torn |= not snapshot.whole
        self.had_holes |= not snapshot.hole_free
        self.latest = snapshot
        self.snapshots += 1


def _snapshot(leader: Leader, follower: psycopg.Connection) -> Snapshot:
    wal_end = leader.number(_WAL_END)
    with follower.transaction():
        total = _number(follower, _BANK_TOTAL)
        wrong_branches = _number(follower, _WRONG_BRANCHES)
        transfers = _number(follower, _TRANSFERS)
        entries, newest, transfer_entries = follower.execute(_LEDGER, (TRANSFER,)).fetchone() or (0, 0, 0)
        applied = _number(follower, _APPLIED_UP_TO)
    return Snapshot(
        bank_total=total,
        whole=wrong_branches == 0 and transfers == transfer_entries,
        hole_free=entries == newest,
        pending_bytes=None if wal_end is None else max(0, wal_end - applied),
    )


class LeaderWatch:
    """How fast the leader is written to, whoever that is."""

    def __init__(self, dsn: Callable[[], str], journal: Journal) -> None:
        self.transactions, self.rows = Meter(), Meter()
        self.rows_written = 0
        self._dsn = dsn
        self._journal = journal
        self._counted: tuple[str, int] | None = None
        self.thread = Background("leader rates", self._count)

    def _count(self, wait: Callable[[float], bool]) -> None:
        with closing(Leader(self._dsn)) as leader:
            while True:
                count = leader.number(_ROWS_WRITTEN)
                if count is not None:
                    self._add(leader.dsn, count)
                self.rows.note(self.rows_written)
                self.transactions.note(self._journal.transactions)
                if wait(_SNAPSHOT_EVERY_SECONDS):
                    return

    def _add(self, dsn: str, count: int) -> None:
        """What was written since the last count by the same server; each counts for itself."""
        if self._counted is not None and self._counted[0] == dsn:
            self.rows_written += count - self._counted[1]
        self._counted = (dsn, count)


def wal_end(dsn: str) -> int:
    """Where the leader's WAL ends now."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        return _number(connection, _WAL_END)


def applied_up_to(dsn: str) -> int:
    """How far a follower's position is."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        return _number(connection, _APPLIED_UP_TO)


def _number(connection: psycopg.Connection, query: str) -> int:
    row = connection.execute(query).fetchone()
    return int(row[0]) if row else 0
