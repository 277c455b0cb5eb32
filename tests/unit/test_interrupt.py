"""A statement is ended from another thread while its own may close the connection at any moment."""

from __future__ import annotations

from types import SimpleNamespace

import psycopg
import pytest
from psycopg.pq import TransactionStatus

from connectors.postgres import target as target_module
from connectors.postgres.target import PostgresTarget


class ClosedInBetween:
    """A connection whose thread closes it once its statement was seen to run."""

    closed = False
    info = SimpleNamespace(transaction_status=TransactionStatus.ACTIVE)

    def __init__(self) -> None:
        self.asked = 0

    def cancel_safe(self, *, timeout: float) -> None:
        raise psycopg.errors.CancellationTimeout(f"no answer within {timeout} s")

    def fileno(self) -> int:
        self.asked += 1
        raise psycopg.OperationalError("the connection is closed")


def test_a_connection_that_was_closed_meanwhile_needs_no_interrupt(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(target_module, "_CANCEL_SECONDS", 0.01)
    target = PostgresTarget("", "eu-west", "shop.log", lambda _: False)
    connection = ClosedInBetween()
    monkeypatch.setattr(target, "_connection", connection)
    target.interrupt()
    assert connection.asked == 1
