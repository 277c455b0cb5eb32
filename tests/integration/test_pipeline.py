"""Several statements with values in one round trip, against real servers, and how long they stay prepared."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator

import psycopg
import pytest
from psycopg.pq import PipelineStatus, TransactionStatus

from connectors.postgres import pipeline as module
from connectors.postgres.connection import WatchedConnection, connect, no_answer
from connectors.postgres.pipeline import Pipeline
from connectors.postgres.script import Step
from tests.support.pausing import send
from tests.support.pipeline import rows_of, run_sql, sqlstate

UPDATE = b"UPDATE public.t SET x = $1 WHERE id <= $2"
QUOTED = 'it\'s \\ "x" $1 %s'
COMMIT = Step(b"COMMIT")


@pytest.fixture
def connection(follower_db: str) -> Iterator[WatchedConnection]:
    run_sql(
        follower_db,
        "CREATE TABLE t (id int PRIMARY KEY, x text)",
        "INSERT INTO t SELECT g, 'old' FROM generate_series(1, 9) g",
    )
    with connect(follower_db, "test", "here", autocommit=False) as connection:
        yield connection


@pytest.fixture
def pipeline(connection: WatchedConnection) -> Pipeline:
    return Pipeline(connection)


def update(x: bytes | None, most: int) -> Step:
    return Step(UPDATE, values=[x, b"%d" % most])


def prepared(connection: WatchedConnection) -> list[str]:
    names = [name for (name,) in connection.execute("SELECT statement FROM pg_prepared_statements").fetchall()]
    connection.rollback()
    return names


def test_each_step_says_how_many_rows_it_met(connection: WatchedConnection, pipeline: Pipeline, follower_db: str):
    steps = [update(QUOTED.encode(), 3), Step(b"SELECT FROM public.t"), update(None, 0), update(None, 2)]
    for _ in range(2):
        outcome = pipeline.play(steps)
        assert (outcome.rows, outcome.error) == ([3, 9, 0, 2], None)
        assert connection.info.transaction_status is TransactionStatus.INTRANS
        assert connection.pgconn.pipeline_status == PipelineStatus.OFF
    assert pipeline.play([COMMIT]).rows == [0]
    assert connection.info.transaction_status is TransactionStatus.IDLE
    assert rows_of(follower_db, "SELECT x FROM t WHERE id < 4 ORDER BY id") == [(None,), (None,), (QUOTED,)]


@pytest.mark.parametrize("is_open", [False, True], ids=["begins", "is open"])
@pytest.mark.parametrize("at", range(3))
@pytest.mark.parametrize(
    ("bad", "state"),
    [
        (Step(b"SELECT 1 / $1::int", values=[b"0"]), "22012"),
        (Step(UPDATE, values=[b"x", b"no number"]), "22P02"),
        (Step(b"UPDATE nowhere SET x = 1"), "42P01"),
        (Step(b"no statement"), "42601"),
    ],
    ids=["run", "bind", "plan", "parse"],
)
def test_the_step_that_fails_is_the_one_after_those_that_were_done(
    connection: WatchedConnection, pipeline: Pipeline, bad: Step, state: str, at: int, is_open: bool
):
    if is_open:
        assert pipeline.play([Step(b"SELECT")]).error is None
    steps = [Step(b"SELECT 7"), update(b"new", 4)]
    outcome = pipeline.play([*steps[:at], bad, *steps[at:], COMMIT])
    assert (outcome.rows, sqlstate(outcome.error)) == ([1, 4][:at], state)
    assert connection.info.transaction_status is TransactionStatus.INERROR, "the COMMIT was not reached"
    connection.rollback()

    # What was prepared before is prepared still, and what was not can be.
    assert (pipeline.play(steps).rows, pipeline.play([bad]).rows) == ([1, 4], [])


def test_a_statement_is_planned_once(connection: WatchedConnection, pipeline: Pipeline):
    for _ in range(3):
        assert pipeline.play([update(b"new", 4)] * 5).rows == [4] * 5
        connection.rollback()
    assert sorted(prepared(connection)) == ["BEGIN", UPDATE.decode()]
    # psycopg drops all that are prepared after a rollback, if it prepared one.
    for _ in range(20):
        connection.execute("SELECT 1")
    connection.rollback()
    assert pipeline.play([update(b"new", 4)]).rows == [4]


def test_many_statements_do_not_pile_up(
    connection: WatchedConnection, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "_MOST_PREPARED", 20)
    for number in range(50):
        assert pipeline.play([Step(b"SELECT %d" % number), update(b"new", 4)]).rows == [1, 4]
        assert len(pipeline._names) <= 22
    connection.rollback()
    assert len(prepared(connection)) <= 22


def test_a_plan_for_an_empty_table_does_not_stay(
    connection: WatchedConnection, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
):
    assert pipeline.play([update(b"new", 4)]).rows == [4]
    connection.rollback()
    monkeypatch.setattr(module, "_PLANS_LAST_SECONDS", 0.0)
    assert pipeline.play([Step(b"SELECT")]).rows == [1]
    connection.rollback()
    assert sorted(prepared(connection)) == ["BEGIN", "SELECT"]
    assert pipeline.play([update(b"new", 4)]).rows == [4]


def test_plans_by_which_a_trip_took_long_do_not_stay(connection: WatchedConnection, pipeline: Pipeline):
    assert pipeline.play([update(b"new", 4), Step(b"SELECT pg_sleep(0.15)")]).rows == [4, 1]
    assert pipeline.play([Step(b"SELECT")]).rows == [1]
    connection.rollback()
    assert prepared(connection) == ["SELECT"]


def test_large_values_and_many_statements_arrive(connection: WatchedConnection, pipeline: Pipeline):
    steps = [Step(b"UPDATE public.t SET x = $1 WHERE id = $2", values=[b"x" * 2_000_000, b"%d" % n]) for n in range(10)]
    assert pipeline.play(steps).rows == [0, *[1] * 9]
    assert pipeline.play([update(b"%d" % n, 1) for n in range(5000)]).rows == [1] * 5000
    # The server says much meanwhile.
    assert pipeline.play([Step(b"SELECT repeat('y', 1000000)"), *steps] * 3).error is None
    assert connection.execute("SELECT sum(length(x)) FROM public.t").fetchone() == (18_000_000,)


def test_time_is_used_while_the_server_works(pipeline: Pipeline):
    calls: list[float] = []

    def meanwhile() -> bool:
        calls.append(time.monotonic())
        time.sleep(0.01)
        return True

    assert pipeline.play([Step(b"SELECT pg_sleep(0.4)"), update(b"new", 1)], meanwhile).rows == [1, 1]
    assert len(calls) > 5
    assert time.monotonic() - calls[-1] < 0.2, "until the server answered"


def test_a_session_that_is_ended_says_why(follower_db: str, connection: WatchedConnection, pipeline: Pipeline):
    end = f"SELECT pg_terminate_backend({connection.info.backend_pid})"
    ended = threading.Timer(0.3, lambda: run_sql(follower_db, end))
    ended.start()
    outcome = pipeline.play([update(b"new", 4), Step(b"SELECT pg_sleep(20)"), COMMIT])
    ended.join()
    assert sqlstate(outcome.error) == "57P01"
    assert rows_of(follower_db, "SELECT count(*) FROM t WHERE x = 'new'") == [(0,)]
    with pytest.raises(psycopg.OperationalError):
        pipeline.play([COMMIT])


def test_a_server_that_says_nothing_is_given_up(connection: WatchedConnection, pipeline: Pipeline):
    connection.silence_seconds, connection.on_silence = 0.5, no_answer
    backend = connection.info.backend_pid
    send(signal.SIGSTOP, [backend])
    try:
        with pytest.raises(psycopg.OperationalError, match="has not answered"):
            pipeline.play([update(b"new", 4), COMMIT])
        assert connection.closed
    finally:
        send(signal.SIGCONT, [backend])
