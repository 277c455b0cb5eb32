"""Transactions of every shape arrive whole, once and in commit order."""

from __future__ import annotations

import signal
import threading

import psycopg
import pytest

from cdc.local.processes import wait_for
from tests.fixtures.pipeline import Pipelines
from tests.fixtures.servers import OwnPostgres
from tests.support.cases import NOISE
from tests.support.pipeline import FOLLOWER, Pipeline, rows_of

TABLE = "CREATE TABLE t (id int PRIMARY KEY, v int, big text)"
EXTERNAL = "ALTER TABLE t ALTER big SET STORAGE EXTERNAL"


@pytest.mark.newest_first
def test_prepared_transactions_outlive_a_restart_of_capture(
    pipelines: Pipelines, own_postgres: OwnPostgres, postgres_version: int
):
    # Given transactions that are prepared, with a TOASTed value, while capture is killed and comes back.
    server = own_postgres(settings={"max_prepared_transactions": "5"})
    pipeline = pipelines.new(TABLE, EXTERNAL, NOISE, version=postgres_version, leader=server).init().bootstrap().start()
    for name, ids in {"stays": "1, 200", "goes": "201, 400", "later": "401, 402"}.items():
        pipeline.execute(
            "BEGIN; INSERT INTO t SELECT i, 0, noise(i::text, 100) "
            f"FROM generate_series({ids}) i; PREPARE TRANSACTION '{name}'"
        )
    pipeline.execute("INSERT INTO t VALUES (-1, 1, 'meanwhile')")
    pipeline.catch_up()
    pipeline.group.daemon("capture").send_signal(signal.SIGKILL)
    assert pipeline.ends("capture") == -signal.SIGKILL
    pipeline.execute("COMMIT PREPARED 'stays'")
    pipeline.start_capture()

    # When one is committed, one is rolled back, and one waits for the end of the server's next life.
    pipeline.execute("ROLLBACK PREPARED 'goes'", "UPDATE t SET v = 7 WHERE id % 2 = 0")
    pipeline.catch_up()
    pipeline.assert_equal()
    pipeline.group.stop("capture")
    server.stop()
    server.start()
    pipeline.start_capture()
    pipeline.execute("COMMIT PREPARED 'later'")
    pipeline.catch_up()

    # Then the follower holds what the leader does.
    pipeline.assert_equal()
    assert rows_of(pipeline.followers[FOLLOWER], "SELECT count(*) FROM t") == [(203,)]


def savepoints(pipeline: Pipeline, count: int) -> None:
    """One transaction with so many savepoints, every other one rolled back."""
    with psycopg.connect(pipeline.leader) as connection, connection.cursor() as cursor:
        for i in range(count):
            cursor.execute("SAVEPOINT s")
            cursor.execute("INSERT INTO t VALUES (%s, %s, noise(%s, 70))", (i, i, str(i)))
            if i % 4 == 3:
                cursor.execute("UPDATE t SET v = -v WHERE id = %s", (i - 3,))
            cursor.execute("ROLLBACK TO s" if i % 2 else "RELEASE s")


@pytest.mark.newest_first
@pytest.mark.parametrize("count", [1_000, pytest.param(10_000, marks=pytest.mark.long)])
@pytest.mark.timeout(400)
def test_savepoints_of_which_half_is_rolled_back(pipelines: Pipelines, postgres_version: int, count: int):
    pipeline = pipelines.new(TABLE, EXTERNAL, NOISE, version=postgres_version).init().bootstrap().start()
    savepoints(pipeline, count)
    pipeline.catch_up(seconds=200)

    pipeline.assert_equal()
    assert rows_of(pipeline.followers[FOLLOWER], "SELECT count(*) FROM t") == [(count // 2,)]


@pytest.mark.newest_first
@pytest.mark.parametrize("rows", [20_000, pytest.param(300_000, marks=pytest.mark.long)])
@pytest.mark.timeout(600)
def test_large_transactions_at_the_same_time(pipelines: Pipelines, postgres_version: int, rows: int):
    # Given two transactions that write by turns, and small ones that commit meanwhile.
    pipeline = pipelines.new(TABLE, version=postgres_version).init().bootstrap().start()
    turns = 10
    with psycopg.connect(pipeline.leader) as one, psycopg.connect(pipeline.leader) as other:
        for turn in range(turns):
            for number, connection in enumerate((one, other)):
                first = (number * turns + turn) * rows + 1
                connection.execute(
                    f"INSERT INTO t SELECT i, {number}, 'x' "
                    f"FROM generate_series({first}, {first + rows // turns - 1}) i"
                )
            pipeline.execute(f"INSERT INTO t VALUES ({-turn}, 0, 'small')", "UPDATE t SET v = v + 1 WHERE id <= 0")
        # When the younger one commits first.
        other.commit()
        one.commit()
    pipeline.catch_up(seconds=300)

    pipeline.assert_equal()
    assert rows_of(pipeline.followers[FOLLOWER], "SELECT count(*) FROM t") == [(2 * rows + turns,)]


@pytest.mark.newest_first
def test_many_sessions_at_once_and_messages_between_them(pipelines: Pipelines, postgres_version: int):
    # Given sessions that write the same rows, with messages inside and outside of transactions.
    pipeline = pipelines.new(TABLE, version=postgres_version).init().bootstrap().start()
    pipeline.execute("INSERT INTO t SELECT i, 0, '' FROM generate_series(1, 20) i")

    def write(session: int) -> None:
        with psycopg.connect(pipeline.leader, autocommit=True) as connection:
            for turn in range(40):
                connection.execute("SELECT pg_logical_emit_message(false, 'alone', 'x')")
                with connection.transaction():
                    row = 1 + (session * turn) % 20
                    connection.execute("UPDATE t SET v = v + 1, big = big || %s WHERE id = %s", (session, row))
                    connection.execute("SELECT pg_logical_emit_message(true, 'inside', 'y')")
                    connection.execute("INSERT INTO t VALUES (%s, 0, '')", (1000 * (session + 1) + turn,))

    sessions = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for session in sessions:
        session.start()
    for session in sessions:
        session.join()
    pipeline.catch_up()

    pipeline.assert_equal()
    assert wait_for(lambda: pipeline.all_run(), seconds=1)
