"""Several statements in one round trip, COPY among them, against real servers; and a window's script with its guard."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import psycopg
import pytest
from psycopg.pq import TransactionStatus

from cdc.errors import DivergenceError, FencedError, RetryableError
from cdc.events.net_effect import Change, NetEffect, Row
from cdc.events.position import Position
from cdc.events.table import Column, ReplicaIdentity, TableId, TableSchema
from cdc.ports import TablePlan
from cdc.protocol.lsn import Lsn
from connectors.postgres.connection import WatchedConnection, connect
from connectors.postgres.script import Outcome, Step, play
from connectors.postgres.target import PostgresTarget
from tests.support.pipeline import rows_of, run_sql, sqlstate
from tests.support.replay import LOG, FollowerInTest

COLUMNS = (Column("id", "pg_catalog.int4", -1, True), Column("x", "pg_catalog.text", -1, False))
LINES = b"".join(b"%d\ttext\n" % number for number in range(1000))


@pytest.fixture
def connection(follower_db: str) -> Iterator[WatchedConnection]:
    run_sql(follower_db, "CREATE TABLE t (id int PRIMARY KEY, x text)")
    with connect(follower_db, "test", "here", autocommit=False) as connection:
        yield connection


def described(table: str) -> TableSchema:
    return TableSchema(TableId("public", table), ReplicaIdentity.DEFAULT, COLUMNS)


def copy(data: bytes = LINES) -> Step:
    return Step(b"COPY public.t FROM STDIN", lambda: data)


def test_each_step_says_how_many_rows_it_met(connection: WatchedConnection):
    update = Step(b"UPDATE public.t SET x = 'new' WHERE id < 10")
    select = Step(b"SELECT FROM public.t WHERE id < 3")
    outcome = play(connection, [copy(), update, copy(b"1000\t\\N\n"), select, copy(b"")])
    assert (outcome.rows, outcome.error) == ([1000, 10, 1, 3, 0], None)
    assert play(connection, [Step(b"COMMIT")]).error is None
    assert connection.info.transaction_status is TransactionStatus.IDLE


@pytest.mark.parametrize("is_open", [False, True], ids=["begins", "is open"])
@pytest.mark.parametrize("at", range(4))
@pytest.mark.parametrize("bad", [Step(b"SELECT 1/0"), copy(b"1\tx\n1\ty\n")], ids=["statement", "copy"])
def test_the_step_that_fails_is_the_one_after_those_that_were_done(
    connection: WatchedConnection, bad: Step, at: int, is_open: bool
):
    if is_open:
        connection.execute("SELECT 1")
    steps = [Step(b"SELECT"), copy(b"7\tx\n"), Step(b"UPDATE public.t SET x = 'y'")]
    outcome = play(connection, [*steps[:at], bad, *steps[at:], Step(b"COMMIT")])
    assert outcome.rows == [1, 1, 1][:at]
    assert sqlstate(outcome.error) == ("22012" if bad.data is None else "23505")
    assert connection.info.transaction_status is TransactionStatus.INERROR, "the COMMIT was not reached"
    connection.rollback()
    assert play(connection, [copy()]).rows == [1000]


def test_a_copy_that_is_refused_in_its_middle_takes_no_more(connection: WatchedConnection):
    data = b"1\tx\nno number\ty\n" + LINES * 600
    outcome = play(connection, [copy(data), Step(b"COMMIT")])
    assert (outcome.rows, sqlstate(outcome.error)) == ([], "22P02")
    connection.rollback()
    assert play(connection, [copy()]).rows == [1000]


def test_data_that_cannot_be_made_end_the_script(connection: WatchedConnection):
    def unfit() -> bytes:
        raise ValueError("no text")

    with pytest.raises(ValueError, match="no text"):
        play(connection, [copy(), Step(b"COPY public.t FROM STDIN", unfit), Step(b"COMMIT")])
    assert connection.info.transaction_status is TransactionStatus.INERROR
    connection.rollback()
    assert connection.execute("SELECT count(*) FROM public.t").fetchone() == (0,)


def test_large_data_arrive_whole(connection: WatchedConnection):
    rows = [b"%d\t%s\n" % (number, b"x" * 700_000) for number in range(12)]
    assert play(connection, [copy(b"".join(rows))]).rows == [12]
    assert connection.execute("SELECT sum(length(x)) FROM public.t").fetchone() == (12 * 700_000,)


def test_time_is_used_while_the_server_works_on_the_last_data(connection: WatchedConnection):
    calls: list[float] = []
    asked: list[float] = []

    def last() -> bytes:
        asked.append(time.monotonic())
        return b"1000\tx\n"

    def meanwhile() -> bool:
        calls.append(time.monotonic())
        time.sleep(0.01)
        return True

    last_copy = Step(b"COPY public.t FROM STDIN", last)
    steps = [copy(), Step(b"SELECT pg_sleep(0.5)"), last_copy, Step(b"SELECT pg_sleep(0.3)")]
    outcome = play(connection, steps, meanwhile)
    ended = time.monotonic()
    assert (outcome.rows, outcome.error) == ([1000, 1, 1, 1], None)
    assert calls, "while the last statement slept"
    assert asked[0] <= calls[0], "not while another COPY was to come"
    assert ended - calls[-1] < 0.2, "until the server answered"


def test_a_session_that_is_ended_says_why(follower_db: str, connection: WatchedConnection):
    end = f"SELECT pg_terminate_backend({connection.info.backend_pid})"
    ended = threading.Timer(0.3, lambda: run_sql(follower_db, end))
    ended.start()
    outcome = play(connection, [copy(), Step(b"SELECT pg_sleep(20)"), Step(b"COMMIT")])
    ended.join()
    assert (outcome.rows, sqlstate(outcome.error)) == ([1000], "57P01")
    assert rows_of(follower_db, "SELECT count(*) FROM t") == [(0,)]


class Follower:
    """A table, and a target that is about to write to it."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        run_sql(dsn, "CREATE TABLE t (id int PRIMARY KEY, x text)")
        FollowerInTest(dsn, ["t"]).empty(Lsn(2))
        run_sql(
            dsn, "SET session_replication_role = replica", "INSERT INTO t SELECT g, 'old' FROM generate_series(1, 50) g"
        )
        self.looked_at: list[float] = []
        self.target = PostgresTarget(
            dsn, "follower", LOG, lambda _: False, alive=lambda: self.looked_at.append(time.monotonic())
        )
        self.target.open()
        self.plan: TablePlan = self.target.plan(described("t"), [])

    def update(self, *ids: int) -> TablePlan | None:
        rows: list[Any] = [{"id": str(number), "x": "new"} for number in ids]
        return self.target.apply_sets([(self.plan, NetEffect(updates={("id", "x"): rows}))], lambda: False)

    def commit(self, lsn: int) -> None:
        self.target.commit(Position(1, Lsn(lsn), Lsn(lsn + 1), 0, lsn, "it's \\ a leader"), [])

    def state(self) -> tuple[int, int]:
        """Rows that are new, and the position."""
        ((new,),) = rows_of(self.dsn, "SELECT count(*) FROM t WHERE x = 'new'")
        ((lsn,),) = rows_of(self.dsn, "SELECT (commit_lsn - '0/0'::pg_lsn)::int FROM cdc.position")
        return new, lsn


@pytest.fixture
def follower(follower_db: str) -> Iterator[Follower]:
    follower = Follower(follower_db)
    yield follower
    follower.target.close()


def test_rows_and_position_come_together(follower: Follower):
    assert follower.update(1, 2, 3) is None
    assert follower.state() == (0, 1)
    follower.commit(5)
    assert follower.state() == (3, 5)
    assert follower.update(4) is None
    follower.commit(6)
    assert follower.state() == (4, 6)
    assert rows_of(follower.dsn, "SELECT leader FROM cdc.position") == [("it's \\ a leader",)]


@pytest.mark.parametrize("in_order", [False, True], ids=["sets", "in order"])
def test_that_a_statement_waits_is_told_all_the_time(follower: Follower, in_order: bool):
    follower.target.rollback()  # what looking at the table has locked
    with psycopg.connect(follower.dsn, options="-c session_replication_role=replica") as keeper:
        keeper.execute("UPDATE t SET x = 'kept' WHERE id = 1")
        release = threading.Timer(1.5, keeper.rollback)
        release.start()
        began = time.monotonic()
        if in_order:
            change: Change = ("u", follower.plan.schema.fingerprint, None, {"id": "1", "x": "new"}, False, 5, 1, 5)
            follower.target.apply_in_order([(follower.plan, change)])
        else:
            assert follower.update(1) is None
        ended = time.monotonic()
        release.join()
    assert ended - began > 1, "it waited"
    looks = [began, *(at for at in follower.looked_at if began < at < ended), ended]
    assert max(b - a for a, b in pairwise(looks)) < 1


def test_pieces_of_a_transaction_are_no_savepoints_in_one_another(follower: Follower):
    # Each has a memory context, which is in that of the savepoint around it.
    depth = "SELECT max(level) FROM pg_backend_memory_contexts WHERE name = 'CurTransactionContext'"
    assert follower.update(1) is None
    counts = []
    for number in range(2, 40):
        assert follower.update(number) is None
        counts.append(follower.target._conn.execute(depth).fetchone())
    assert len(set(counts)) == 1, counts
    # And a piece that cannot be applied takes no other one with it.
    assert follower.update(40, 99) is follower.plan
    assert follower.update(41) is None
    follower.commit(5)
    assert follower.state() == (40, 5)
    assert follower.update(42) is None
    assert follower.update(43) is None
    follower.commit(6)
    assert follower.state() == (42, 6)


def test_a_position_that_was_moved_by_others_takes_no_rows(follower: Follower):
    run_sql(follower.dsn, "UPDATE cdc.position SET commit_lsn = '0/9'")
    assert follower.update(1) is None
    with pytest.raises(FencedError, match="somebody else moved"):
        follower.commit(5)
    assert follower.state() == (0, 9)


def test_a_position_that_is_gone_takes_no_rows(follower: Follower):
    run_sql(follower.dsn, "DELETE FROM cdc.position")
    assert follower.update(1) is None
    with pytest.raises(FencedError, match="somebody else moved"):
        follower.commit(5)
    assert rows_of(follower.dsn, "SELECT count(*) FROM t WHERE x = 'new'") == [(0,)]


@pytest.mark.parametrize("is_open", [False, True], ids=["begins", "is open"])
def test_a_set_that_misses_a_row_leaves_what_was_before_it(follower: Follower, is_open: bool):
    if is_open:
        assert follower.update(1) is None
    assert follower.update(2, 99) is follower.plan
    assert follower.update(3) is None
    follower.commit(5)
    assert follower.state() == (2 if is_open else 1, 5)


def inserted(plan: TablePlan, *cells: str) -> list[tuple[TablePlan, Change]]:
    row: Row = dict(zip(plan.columns, cells, strict=True))
    return [(plan, ("c", plan.schema.fingerprint, None, row, False, 5, 1, 5))]


def test_a_value_is_taken_as_what_its_column_has_become(follower: Follower):
    def shape(type_name: str) -> TableSchema:
        columns = (COLUMNS[0], Column("x", f"pg_catalog.{type_name}", -1, False))
        return TableSchema(TableId("public", "u"), ReplicaIdentity.DEFAULT, columns)

    run_sql(follower.dsn, "CREATE TABLE u (id int PRIMARY KEY, x int)")
    follower.target.apply_in_order(inserted(follower.target.plan(shape("int4"), []), "1", "7"))
    follower.commit(5)
    run_sql(follower.dsn, "SET session_replication_role = replica", "ALTER TABLE u ALTER x TYPE text")
    follower.target.apply_in_order(inserted(follower.target.plan(shape("text"), []), "2", "007"))
    follower.commit(6)
    assert rows_of(follower.dsn, "SELECT x FROM u ORDER BY id") == [("7",), ("007",)]


def test_a_partition_that_somebody_works_on_is_needed_by_its_own_rows_only(follower: Follower):
    run_sql(
        follower.dsn,
        "CREATE TABLE p (id int PRIMARY KEY, x text) PARTITION BY RANGE (id)",
        "CREATE TABLE old PARTITION OF p FOR VALUES FROM (0) TO (10)",
        "CREATE TABLE young PARTITION OF p FOR VALUES FROM (10) TO (20)",
        "INSERT INTO p VALUES (10, 'x'), (11, 'x')",
    )
    plan = follower.target.plan(described("p"), [])
    follower.commit(5)
    with psycopg.connect(follower.dsn, options="-c session_replication_role=replica") as worker:
        worker.execute("LOCK TABLE ONLY old")
        for lsn in range(6, 10):
            updated: Change = ("u", plan.schema.fingerprint, None, {"id": "10", "x": str(lsn)}, False, 5, 1, 5)
            deleted: Change = ("d", plan.schema.fingerprint, {"id": "11", "x": None}, None, False, 5, 1, 5)
            follower.target.apply_in_order([(plan, updated), (plan, deleted), *inserted(plan, "11", "x")])
            follower.commit(lsn)
    assert rows_of(follower.dsn, "SELECT x FROM p ORDER BY id") == [("9",), ("x",)]
    # And the one that fails is still the one that is named.
    with pytest.raises(DivergenceError, match="delete on public"):
        follower.target.apply_in_order([(plan, updated), (plan, deleted), (plan, deleted)])
    follower.target.rollback()
    with pytest.raises(DivergenceError, match=r"insert on public.*23505"):
        follower.target.apply_in_order([(plan, updated), *inserted(plan, "11", "x"), (plan, deleted)])


def test_who_is_interrupted_after_the_last_change_of_a_partitioned_table_goes_on_later(
    follower: Follower, monkeypatch: pytest.MonkeyPatch
):
    run_sql(
        follower.dsn,
        "CREATE TABLE p (id int PRIMARY KEY, x text) PARTITION BY RANGE (id)",
        "CREATE TABLE p_0 PARTITION OF p DEFAULT",
    )
    plan = follower.target.plan(described("p"), [])
    play_all = follower.target._play

    def play_all_but_the_last(steps: Sequence[Step]) -> Outcome:
        return Outcome(play_all(steps[:-1]).rows, psycopg.errors.QueryCanceled())

    monkeypatch.setattr(follower.target, "_play", play_all_but_the_last)
    with pytest.raises(RetryableError):
        follower.target.apply_in_order(inserted(plan, "1", "x"))


def test_a_backend_that_is_gone_before_the_script_is_tried_again(follower: Follower):
    run_sql(
        follower.dsn,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'cdc apply follower'",
    )
    with pytest.raises(RetryableError):
        follower.update(1)
