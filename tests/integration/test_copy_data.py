"""Messages of a COPY, taken by the compiled reader and by psycopg: the same ones, and the same ends."""

from __future__ import annotations

import os
import socket
import time
from contextlib import closing

import psycopg
import pytest
from psycopg.pq import ExecStatus

from cdc.local.processes import wait_for
from connectors.postgres import copy_data
from connectors.postgres.copy_data import CopyData

ROWS = 3000
MESSAGES = [b"%d\t%s\n" % (n, b"\xc3\xa9" * (n % 700)) for n in range(1, ROWS + 1)]
COPY = f"COPY (SELECT n, repeat('é', n % 700) FROM generate_series(1, {ROWS}) AS n) TO STDOUT".encode()


@pytest.fixture(params=["compiled", "psycopg"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    way: str = request.param
    if way == "psycopg":
        monkeypatch.setattr(copy_data, "_compiled_read", lambda: None)
    elif copy_data._compiled_read() is None:
        pytest.skip("connectors.postgres.copy_reader is not compiled here")
    return way


def copying(dsn: str, statement: bytes) -> psycopg.Connection:
    """A connection on which the server has begun to copy."""
    connection = psycopg.connect(dsn, client_encoding="utf8", autocommit=True)
    pgconn = connection.pgconn
    pgconn.send_query(statement)
    while pgconn.is_busy():
        pgconn.consume_input()
    result = pgconn.get_result()
    assert result
    assert result.status == ExecStatus.COPY_OUT
    return connection


def take_all(connection: psycopg.Connection, most_bytes: int, most: int) -> tuple[list[list[bytes]], int]:
    """What each call took, and the answer that ended it."""
    copied = CopyData(connection.pgconn)
    calls: list[list[bytes]] = []
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        messages: list[bytes] = []
        answer, taken = copied.take(messages, most_bytes, most)
        assert taken == sum(map(len, messages))
        calls.append(messages)
        if answer < 0:
            return calls, answer
    raise AssertionError("the copy did not end")


@pytest.mark.parametrize(("most_bytes", "most"), [(1 << 30, 1 << 30), (5000, 1 << 30), (1 << 30, 7), (1, 1 << 30)])
def test_all_messages_come_in_order_and_within_the_limits(leader_db: str, way: str, most_bytes: int, most: int):
    # When messages of some bytes up to a kilobyte are taken, so many at a time.
    with closing(copying(leader_db, COPY)) as connection:
        calls, answer = take_all(connection, most_bytes, most)

        # Then each came once, no call went on after a limit, and the end is told.
        assert [message for call in calls for message in call] == MESSAGES
        assert all(len(call) <= most and sum(map(len, call[:-1])) < most_bytes for call in calls)
        assert answer == -1
        result = connection.pgconn.get_result()
        assert result
        assert result.status == ExecStatus.COMMAND_OK


def test_what_has_not_arrived_is_not_waited_for(leader_db: str, way: str):
    # Given a copy that stands still after some rows.
    rows = b"SELECT repeat('x', 9000) FROM generate_series(1, 3)"
    with closing(
        copying(leader_db, b"COPY (%b UNION ALL SELECT 'y' FROM pg_sleep(600)) TO STDOUT" % rows)
    ) as connection:
        # When what is there was taken, then there is nothing, and it is not the end.
        messages: list[bytes] = []
        copied = CopyData(connection.pgconn)
        assert wait_for(lambda: copied.take(messages, 1 << 20)[0] == 0 and len(messages) >= 2, seconds=60)
        assert set(messages) == {b"x" * 9000 + b"\n"}
        assert copied.take([], 1 << 20) == (0, 0)
        connection.cancel_safe()


def test_a_server_that_ends_is_the_end_and_tells_why(leader_db: str, way: str):
    # Given a copy that does not end by itself.
    with closing(copying(leader_db, b"COPY (SELECT generate_series(1, 1000000000)) TO STDOUT")) as connection:
        # When the server ends it half way.
        with psycopg.connect(leader_db, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s)", [connection.pgconn.backend_pid])
        calls, answer = take_all(connection, 1 << 20, 1 << 30)

        # Then what was sent is whole and in order, and the server's reason is there.
        numbers = [int(message) for call in calls for message in call]
        assert numbers == list(range(1, len(numbers) + 1))
        assert answer == -1
        result = connection.pgconn.get_result()
        assert result
        assert result.error_field(67) == b"57P01"  # C, the SQLSTATE


def test_a_connection_that_breaks_is_an_error_after_what_had_come(leader_db: str, way: str):
    # Given a copy that does not end by itself, and a reader who has taken a part of it.
    with closing(copying(leader_db, b"COPY (SELECT generate_series(1, 1000000000)) TO STDOUT")) as connection:
        copied = CopyData(connection.pgconn)
        messages: list[bytes] = []
        assert wait_for(lambda: copied.take(messages, 5000)[0] > 0, seconds=60)

        # When the link is lost, then all that had come can be taken, and after it comes the error.
        with socket.socket(fileno=os.dup(connection.pgconn.socket)) as link:
            link.shutdown(socket.SHUT_RDWR)
        with pytest.raises(psycopg.OperationalError, match="server closed the connection"):
            wait_for(lambda: copied.take(messages, 1 << 20)[0] < 0, seconds=60)
        numbers = [int(message) for message in messages]
        assert numbers == list(range(1, len(numbers) + 1))


def test_without_a_copy_and_without_a_connection_it_is_psycopgs_error(leader_db: str, way: str):
    with psycopg.connect(leader_db) as connection:
        copied = CopyData(connection.pgconn)
        with pytest.raises(psycopg.OperationalError, match="no COPY in progress"):
            copied.take([], 1000)
    with pytest.raises(psycopg.OperationalError):
        copied.take([], 1000)
