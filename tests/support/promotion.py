"""Clients that look for the leader themselves, and remember outside of every database what was acknowledged to them."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import psycopg

from cdc.local.processes import wait_for
from tests.support.bank import transfer
from tests.support.pipeline import Pipeline, rows_of


class Clients:
    """One client with the bank's load. `acknowledged` are the ledger's numbers whose commit it was told of."""

    def __init__(self, nodes: Mapping[str, str], *, pause_seconds: float = 0.003) -> None:
        self.acknowledged: set[int] = set()
        self.longest_pause = 0.0
        self._nodes = dict(nodes)
        self._pause = pause_seconds
        self._random = random.Random(11)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="clients", daemon=True)
        self._error: BaseException | None = None
        self._last = time.monotonic()

    def transact(self, more: int, seconds: float = 60.0) -> None:
        """Until so many more transactions are acknowledged."""
        wanted = len(self.acknowledged) + more
        assert wait_for(lambda: len(self.acknowledged) >= wanted or self._error is not None, seconds=seconds), (
            "no writes"
        )
        if self._error:
            raise self._error

    def assert_all_on(self, dsn: str, *, except_for: int = 0) -> None:
        """Every acknowledged transaction is there."""
        there = {n for (n,) in rows_of(dsn, "SELECT n FROM ledger")}
        missing = sorted(self.acknowledged - there)
        assert len(missing) <= except_for, f"acknowledged and lost: {missing[:20]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(30)
        if self._error:
            raise self._error

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                for dsn in self._nodes.values():
                    try:
                        self._session(dsn)
                    except (psycopg.OperationalError, psycopg.errors.ReadOnlySqlTransaction):
                        self._stop.wait(0.02)
        except BaseException as error:
            self._error = error

    def _session(self, dsn: str) -> None:
        """As libpq's target_session_attrs=read-write does: a node that is read-only is left at once."""
        with psycopg.connect(dsn, connect_timeout=2, target_session_attrs="read-write") as connection:
            while not self._stop.wait(self._pause):
                numbers = transfer(connection, self._random, 1)
                connection.commit()
                self.acknowledged.update(numbers)
                now = time.monotonic()
                self.longest_pause = max(self.longest_pause, now - self._last)
                self._last = now


def in_epoch(pipeline: Pipeline, epoch: int, leader: str, seconds: float = 40.0) -> None:
    """Until every node but the leader follows in that epoch, and holds all that the leader has."""
    row = rows_of(pipeline.nodes[leader], "SELECT pg_logical_emit_message(true, 'test', '') - '0/0'::pg_lsn")
    followers = {name: dsn for name, dsn in pipeline.nodes.items() if name != leader}
    query = "SELECT epoch, commit_lsn - '0/0'::pg_lsn FROM cdc.position"

    def there() -> bool:
        found = [rows_of(dsn, query)[0] for dsn in followers.values()]
        return all(e == epoch and lsn >= row[0][0] for e, lsn in found)

    assert wait_for(there, seconds=seconds), (
        f"{[rows_of(dsn, query) for dsn in followers.values()]}\n{pipeline.group.tail_of_logs()}"
    )


def promote(pipeline: Pipeline, follower: str, *options: str) -> dict[str, Any]:
    """Its report."""
    report: dict[str, Any] = json.loads(pipeline.run("promote", "--follower", follower, "--json", *options))
    return report
