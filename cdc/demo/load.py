"""Writes to the leader at a steady rate, and remembers outside of every database what was acknowledged, and when."""

from __future__ import annotations

import itertools
import random
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

import psycopg

from cdc.demo.background import Background
from cdc.demo.shop import WRITE_LEDGER, Transaction, make_transaction

_WRITERS = 4
_DEADLOCK_TRIES = 5
_LOOK_AGAIN_SECONDS = 0.05
_LEADERLESS_SECONDS = 60.0
_CONNECT_SECONDS = 3


@dataclass(frozen=True, slots=True)
class Takeover:
    """Another server began to take the load. `first_number` is the lowest that it gave: what the old one gave from
    there on is void, its number belongs to another transaction now."""

    first_number: int
    last_before: float
    first_after: float

    @property
    def outage_seconds(self) -> float:
        """As long as no client was told of a commit."""
        return self.first_after - self.last_before


class Journal:
    """The load's own memory: the receipt of each transaction whose commit it was told of, and when that was
    (`time.monotonic`), by its number in the ledger.

    Numbers are the database's. A new leader that lacks the last ones gives them again; receipts are the client's.
    """

    def __init__(self) -> None:
        self.takeover: Takeover | None = None
        """The newest one."""
        self._lock = threading.Lock()
        self._server = 0
        self._left: set[int] = set()
        self._times: dict[int, tuple[int, float]] = {}
        self._receipts: set[uuid.UUID] = set()
        self._newest = 0
        self._last_at = 0.0

    def note(self, number: int, receipt: uuid.UUID, server: int, at: float) -> None:
        """A commit was acknowledged; `server` is the port that it came from."""
        with self._lock:
            self._receipts.add(receipt)
            if server in self._left:
                return  # a writer that was slow to tell: its number belongs to the new leader
            if self._server not in (0, server):
                self._left.add(self._server)
                self.takeover = Takeover(number, self._last_at, at)
                self._newest = 0
            elif self.takeover is not None and number < self.takeover.first_number:
                self.takeover = Takeover(number, self.takeover.last_before, min(at, self.takeover.first_after))
            self._server = server
            self._times[number] = (server, at)
            self._newest = max(self._newest, number)
            self._last_at = max(self._last_at, at)

    @property
    def newest(self) -> int:
        """The highest number that the leader gave so far; 0 before the first."""
        return self._newest

    @property
    def transactions(self) -> int:
        return len(self._receipts)

    def receipts(self) -> frozenset[uuid.UUID]:
        with self._lock:
            return frozenset(self._receipts)

    def committed_at(self, number: int) -> float | None:
        """None while the writer has not heard of its commit yet, or when it is void."""
        server, at = self._times.get(number, (0, 0.0))
        void = self.takeover is not None and server != self._server and number >= self.takeover.first_number
        return None if server == 0 or void else at


class Load:
    """Open loop: transaction k is due k / rate seconds after the start, whether the leader keeps up or not.

    Each writer holds a connection, and looks for the leader when that is lost: with the dsn of several hosts and
    `target_session_attrs=read-write`, libpq finds it.
    """

    def __init__(self, dsn: str, rate: float, journal: Journal) -> None:
        self._dsn = dsn
        self._rate = rate
        self._journal = journal
        self._turns = itertools.count()
        self._writers = [Background(f"writer {n}", self._write) for n in range(1, _WRITERS + 1)]
        self._started = self._stopped = 0.0

    def start(self) -> None:
        self._started = time.monotonic()
        for writer in self._writers:
            writer.start()

    def stop(self) -> None:
        for writer in self._writers:
            writer.stop()
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
        while (connection := self._find_leader(wait)) is not None:
            with closing(connection):
                self._write_there(connection, wait)

    def _find_leader(self, wait: Callable[[float], bool]) -> psycopg.Connection | None:
        """None when asked to end. Raises psycopg.OperationalError when nobody takes writes for a minute."""
        deadline = time.monotonic() + _LEADERLESS_SECONDS
        while not wait(0.0):
            try:
                return psycopg.connect(
                    self._dsn, application_name="shop", autocommit=True, connect_timeout=_CONNECT_SECONDS
                )
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
            wait(_LOOK_AGAIN_SECONDS)
        return None

    def _write_there(self, connection: psycopg.Connection, wait: Callable[[float], bool]) -> None:
        """Until asked to end, or until this server takes no writes any more: what was under way then is not repeated,
        because nobody knows whether it was committed."""
        chance = random.Random()
        server = connection.info.port
        for turn in self._turns:
            due = self._started + turn / self._rate
            if wait(max(0.0, due - time.monotonic())):
                return
            receipt = uuid.uuid4()
            try:
                number = _commit(connection, make_transaction(chance), receipt)
            except psycopg.Error as error:
                if connection.closed or _takes_no_writes(error):
                    return
                raise
            self._journal.note(number, receipt, server, time.monotonic())


def _takes_no_writes(error: psycopg.Error) -> bool:
    """Whether it says of the server, and not of the transaction, that nothing can be written."""
    if error.sqlstate is None:
        return isinstance(error, psycopg.OperationalError)  # libpq's own: the connection is lost
    return error.sqlstate.startswith("57P") or isinstance(error, psycopg.errors.ReadOnlySqlTransaction)


def _commit(connection: psycopg.Connection, transaction: Transaction, receipt: uuid.UUID) -> int:
    """Run it as an application would, a deadlock included; returns its number in the ledger."""
    for attempt in itertools.count(1):
        try:
            return _run(connection, transaction, receipt)
        except psycopg.errors.DeadlockDetected:
            if attempt == _DEADLOCK_TRIES:
                raise
    raise AssertionError("never reached")


def _run(connection: psycopg.Connection, transaction: Transaction, receipt: uuid.UUID) -> int:
    """In one round trip, so that the ledger's lock is held for as short as can be."""
    with connection.pipeline(), connection.transaction():
        for step in transaction.steps:
            connection.execute(step.statement, step.parameters)
        ledger = connection.execute(WRITE_LEDGER, (transaction.kind, receipt))
    row = ledger.fetchone()
    assert row is not None
    return int(row[0])
