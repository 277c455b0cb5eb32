"""A load whose every state can be told from a wrong one, and a watch that looks at all of them.

Transfers keep the total of all accounts; each transaction takes the next number from `counter` and
writes it into `ledger`, so that in every state of the leader the ledger holds 1..n without a hole and n is
what the counter says.
"""

from __future__ import annotations

import random
import threading
import time
from types import TracebackType
from typing import Any, Self

import psycopg

from cdc.local.processes import wait_for

ACCOUNTS = 40
TOTAL = ACCOUNTS * 1000

BANK = (
    "CREATE TABLE account (id int PRIMARY KEY, balance numeric(12,2) NOT NULL, note text)",
    "ALTER TABLE account ALTER note SET STORAGE EXTERNAL",
    "CREATE TABLE ledger (n bigint PRIMARY KEY, source int NOT NULL REFERENCES account, "
    "target int NOT NULL REFERENCES account, amount numeric(12,2) NOT NULL, "
    "at timestamptz NOT NULL DEFAULT clock_timestamp(), details jsonb)",
    "CREATE TABLE counter (id int PRIMARY KEY, n bigint NOT NULL)",
    "INSERT INTO counter VALUES (1, 0)",
    f"INSERT INTO account SELECT i, 1000, repeat(md5(i::text), 100) FROM generate_series(1, {ACCOUNTS}) i",
)

_TAKE = "UPDATE counter SET n = n + %s RETURNING n"
_MOVE = (
    "UPDATE account SET balance = balance + CASE id WHEN %(source)s THEN -%(amount)s ELSE %(amount)s END "
    "WHERE id IN (%(source)s, %(target)s)"
)
_WRITE = 'INSERT INTO ledger (n, source, target, amount, details) VALUES (%s, %s, %s, %s, \'{"by": "bank"}\')'


class Bank:
    """The load: one thread, transactions of one transfer, and now and then of some hundred, until `stop`.

    A leader that goes away is waited for. `pause_seconds` lies between transactions.
    """

    def __init__(self, leader: str, *, pause_seconds: float = 0.003, seed: int = 7) -> None:
        self.committed = 0
        self._leader = leader
        self._pause = pause_seconds
        self._random = random.Random(seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bank", daemon=True)
        self._error: BaseException | None = None

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(20)
        if self._error:
            raise self._error

    def transacts(self, more: int, seconds: float = 30.0) -> None:
        """Until so many more transactions are committed."""
        wanted = self.committed + more
        assert wait_for(lambda: self.committed >= wanted or self._error is not None, seconds=seconds), "the load stands"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                try:
                    self._session()
                except psycopg.OperationalError:
                    self._stop.wait(0.1)
        except BaseException as error:
            self._error = error

    def _session(self) -> None:
        with psycopg.connect(self._leader, connect_timeout=5) as connection:
            while not self._stop.wait(self._pause):
                transfer(connection, self._random, 150 if self._random.random() < 0.02 else 1)
                connection.commit()
                self.committed += 1


def transfer(connection: psycopg.Connection[Any], chance: random.Random, count: int) -> range:
    """`count` transfers in the open transaction; their numbers in the ledger."""
    row = connection.execute(_TAKE, (count,)).fetchone()
    assert row is not None
    numbers = range(row[0] - count + 1, row[0] + 1)
    with connection.pipeline():
        for n in numbers:
            source, target = chance.sample(range(1, ACCOUNTS + 1), 2)
            amount = chance.randint(1, 20)
            connection.execute(_MOVE, {"source": source, "target": target, "amount": amount})
            connection.execute(_WRITE, (n, source, target, amount))
    return numbers


Seen = tuple[tuple[int, int], int]
"""Epoch and commit LSN of a follower's position, and what its counter says."""


class BankWatch:
    """Reads a follower in REPEATABLE READ all the time; `violations` says what no state of the leader was.

    Progress must not go back, except over a crash of the follower, which takes back what it had not flushed.
    """

    def __init__(self, follower: str) -> None:
        self.violations: list[str] = []
        self.snapshots = 0
        self._follower = follower
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bank-watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(20)

    def check(self, at_least: int = 20) -> None:
        """No violation in enough snapshots."""
        wait_for(lambda: self.snapshots >= at_least or bool(self.violations), seconds=10)
        assert not self.violations, self.violations[:5]
        assert self.snapshots >= at_least, "the follower was hardly looked at"

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._session()
            except psycopg.OperationalError:
                self._stop.wait(0.05)
            except psycopg.Error as error:
                self.violations.append(f"{type(error).__name__}: {error}")
                return

    def _session(self) -> None:
        with psycopg.connect(self._follower, connect_timeout=5) as connection:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            connection.read_only = True
            newest: Seen = ((0, 0), 0)
            while not self._stop.wait(0.002):
                newest = self._look(connection, newest)
                connection.rollback()

    def _look(self, connection: psycopg.Connection[Any], newest: Seen) -> Seen:
        def one(query: str) -> Any:
            row = connection.execute(query).fetchone()
            assert row is not None
            return row

        position = one("SELECT epoch, (commit_lsn - '0/0'::pg_lsn)::bigint FROM cdc.position")
        n = one("SELECT n FROM counter")[0]
        total = one("SELECT sum(balance) FROM account")[0]
        count, first, last = one("SELECT count(*), coalesce(min(n), 1), coalesce(max(n), 0) FROM ledger")
        self.snapshots += 1
        if total != TOTAL:
            self.violations.append(f"at {n} the total is {total}, not {TOTAL}")
        if (count, first, last) != (n, 1, n):
            self.violations.append(f"the counter says {n}, the ledger has {count} entries from {first} to {last}")
        if position < newest[0] or n < newest[1]:
            self.violations.append(f"went back from {newest} to {(position, n)}")
        return max(newest[0], position), max(newest[1], n)


def a_moment(chance: random.Random, longest: float) -> None:
    """Let a random part of a second pass, so that a kill meets any state; nothing is waited for."""
    time.sleep(chance.uniform(0, longest))
