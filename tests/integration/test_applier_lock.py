"""One applier a follower: whose the lock is, and when it is somebody else's."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import psycopg
import pytest

from cdc.errors import FencedError, RetryableError
from connectors.postgres import target as target_module
from connectors.postgres.connection import WatchedConnection
from connectors.postgres.locks import applier_of, try_lock
from connectors.postgres.target import PostgresTarget
from tests.support.replay import LOG, FollowerInTest

NODE = "eu-west"


@pytest.fixture
def dsn(follower_db: str) -> str:
    FollowerInTest(follower_db, [])
    return follower_db


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target_module, "_LOCK_PATIENCE_SECONDS", 1.0)
    monkeypatch.setattr(target_module, "_DEAD_HOLDER_SECONDS", 4.0)


def waits(seconds: float) -> bool:
    time.sleep(seconds)
    return False


@pytest.fixture
def target(dsn: str, patience: None) -> Iterator[PostgresTarget]:
    target = PostgresTarget(dsn, NODE, LOG, waits)
    yield target
    target.close()


@pytest.fixture
def holder(dsn: str) -> Iterator[psycopg.Connection]:
    """A session of another applier, which has the lock."""
    with psycopg.connect(dsn, application_name="cdc apply elsewhere", autocommit=True) as connection:
        assert try_lock(connection, applier_of(LOG))
        yield connection


def test_a_lock_whose_answer_was_lost_is_not_taken_for_a_rivals(
    target: PostgresTarget, monkeypatch: pytest.MonkeyPatch
):
    # Given a link that breaks when the server has given us the lock and we do not know it yet.
    lost: list[WatchedConnection] = []

    def answered_to_nobody(connection: WatchedConnection, name: str) -> bool:
        assert try_lock(connection, name)
        lost.append(connection)
        raise RetryableError("the connection is lost")

    monkeypatch.setattr(target_module, "try_lock", answered_to_nobody)
    with pytest.raises(RetryableError):
        target.open()
    target._connection = None  # and the server does not know it
    # When it is tried again, then it is our own lock, and its session is ended.
    monkeypatch.setattr(target_module, "try_lock", try_lock)
    assert target.open() is not None
    with pytest.raises(psycopg.errors.AdminShutdown):
        lost[0].execute("SELECT 1")


def test_an_applier_that_works_is_a_rival_at_once(target: PostgresTarget, holder: psycopg.Connection):
    ended = threading.Event()

    def work() -> None:
        while not ended.wait(0.1):
            holder.execute("SELECT 1")

    worker = threading.Thread(target=work)
    worker.start()
    try:
        began = time.monotonic()
        with pytest.raises(FencedError, match=r"another applier works on this follower \(backend"):
            target.open()
        assert time.monotonic() - began < 3
    finally:
        ended.set()
        worker.join()


def test_one_that_does_nothing_may_be_gone_and_is_waited_for(target: PostgresTarget, holder: psycopg.Connection):
    # As long as the server takes to notice that its machine is gone.
    release = threading.Timer(2.5, holder.close)
    release.start()
    assert target.open() is not None
    release.join()


def test_one_that_stays_is_a_rival_though_it_does_nothing(target: PostgresTarget, holder: psycopg.Connection):
    with pytest.raises(FencedError, match="another applier works"):
        target.open()


def test_a_stop_while_another_one_has_the_lock_is_not_a_rivals_doing(dsn: str, holder: psycopg.Connection):
    target = PostgresTarget(dsn, NODE, LOG, lambda _: True)
    with pytest.raises(RetryableError, match="stopped"):
        target.open()
    target.close()


def test_an_origin_that_a_session_which_ends_still_has_is_tried_again(target: PostgresTarget, dsn: str):
    with psycopg.connect(dsn, autocommit=True) as other:
        name = "SELECT 'cdc_' || oid FROM pg_database WHERE datname = current_database()"
        other.execute(f"SELECT pg_replication_origin_create(({name}))")
        other.execute(f"SELECT pg_replication_origin_session_setup(({name}))")
        with pytest.raises(RetryableError, match="origin of this database is in use"):
            target.open()
    target.close()
    assert target.open() is not None
