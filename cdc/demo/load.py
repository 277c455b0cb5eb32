"""Writes to the leader at a steady rate, and remembers when each transaction committed."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable

import psycopg
from psycopg_pool import ConnectionPool

from cdc.demo.background import Background
from cdc.demo.shop import WRITE_LEDGER, Transaction, make_transaction

_WRITERS = 4
_DEADLOCK_TRIES = 5


class Journal:
    """When each transaction of the load was known to be committed (`time.monotonic`), by its ledger number."""

    def __init__(self) -> None:
        self._times: dict[int, float] = {}
        self._newest = 0

    def note(self, number: int, at: float) -> None:
        self._times[number] = at
        self._newest = max(self._newest, number)

    @property
    def newest(self) -> int:
        """The highest number so far; 0 before the first."""
        return self._newest

    @property
    def transactions(self) -> int:
        return len(self._times)

    def committed_at(self, number: int) -> float | None:
        """None while the writer has not heard of its commit yet."""
        return self._times.get(number)


class Load:
    """Open loop: transaction k is due k / rate seconds after the start, whether the leader keeps up or not."""

    def __init__(self, dsn: str, rate: float, journal: Journal) -> None:
        self._rate = rate
        self._journal = journal
        self._turns = itertools.count()
        self._writers = [Background(f"writer {n}", self._write) for n in range(1, _WRITERS + 1)]
        self._pool = ConnectionPool(
            dsn,
            min_size=_WRITERS,
            max_size=_WRITERS,
            kwargs={"application_name": "shop", "autocommit": True},
            open=False,
        )
        self._started = self._stopped = 0.0

    def start(self) -> None:
        self._pool.open()
        self._started = time.monotonic()
        for writer in self._writers:
            writer.start()

    def stop(self) -> None:
        for writer in self._writers:
            writer.stop()
        self._pool.close()
        self._stopped = self._stopped or time.monotonic()

    def check(self) -> None:
        """Raises what a writer failed with."""
        for writer in self._writers:
            writer.check()

    @property
    def seconds(self) -> float:
        """How long it has been writing."""
        return (self._stopped or time.monotonic()) - self._started if self._started else 0.0

    def _write(self, wait: Callable[[float], bool]) -> None:
        chance = random.Random()
        for turn in self._turns:
            due = self._started + turn / self._rate
            if wait(max(0.0, due - time.monotonic())):
                return
            with self._pool.connection() as connection:
                number = _commit(connection, make_transaction(chance))
            self._journal.note(number, time.monotonic())


def _commit(connection: psycopg.Connection, transaction: Transaction) -> int:
    """Run it as an application would, a deadlock included; returns its number in the ledger."""
    for attempt in itertools.count(1):
        try:
            return _run(connection, transaction)
        except psycopg.errors.DeadlockDetected:
            if attempt == _DEADLOCK_TRIES:
                raise
    raise AssertionError("never reached")


def _run(connection: psycopg.Connection, transaction: Transaction) -> int:
    """In one round trip, so that the ledger's lock is held for as short as can be."""
    with connection.pipeline(), connection.transaction():
        for step in transaction.steps:
            connection.execute(step.statement, step.parameters)
        ledger = connection.execute(WRITE_LEDGER, (transaction.kind,))
    row = ledger.fetchone()
    assert row is not None
    return int(row[0])
