"""Where messages come fast they gather in the WAL of a leader on the same machine: its walsender stands still, and few
commits make it send (connectors/postgres/pace.py, hold.py)."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psycopg
import pytest

from cdc.local.processes import wait_for
from cdc.protocol.frames import XLOG_HEADER_SIZE
from cdc.protocol.pgoutput import INSERT
from connectors.postgres.replication import ReplicationStream
from tests.fixtures.pipeline import Pipelines
from tests.support.committing import TABLE, Committing
from tests.support.pipeline import LEADER, Pipeline, rows_of, set_for_database

_READS = 20
_LOOK_SECONDS = 0.01
_WAITS_FOR = "SELECT wait_event FROM pg_stat_activity WHERE pid = %s"
_TIMEOUT = "2s"
_ACTIVE = "SELECT active FROM pg_replication_slots WHERE slot_name = '{}'"


@pytest.mark.parametrize(("by_socket", "stands"), [(True, "WalSenderWriteData"), (False, "ClientRead")])
def test_a_walsender_that_sends_fast_stands_still_and_wakes_for_few_commits(
    pipelines: Pipelines, by_socket: bool, stands: str
):
    pipeline = pipelines.new(TABLE, by_socket=by_socket).init()
    with streaming(pipeline) as stream, Committing(pipeline.leader) as load, ThreadPoolExecutor() as threads:
        # When a leader commits some ten thousand rows a second, and they are read.
        watch = threads.submit(stands_still, pipeline.leader, stream.backend_pid, stands)
        read = 0
        while not watch.done():
            read += count_inserts(stream)
        # Then its walsender stands still for most of the time: for want of room, or of half a message.
        assert watch.result()
        # And all of them arrive.
        rows = load.end()
        deadline = time.monotonic() + 60
        while read < rows and time.monotonic() < deadline:
            read += count_inserts(stream)
        assert read == rows


def test_what_was_committed_before_a_walsender_is_let_go_is_read_then(pipelines: Pipelines):
    """It may have sent much that comes only then, and sends more while that is read."""
    pipeline = pipelines.new(TABLE).init()
    with streaming(pipeline) as stream, Committing(pipeline.leader, clients=6, rows=6) as load:
        read = 0
        whole: list[bool] = []
        deadline = time.monotonic() + 60
        while len(whole) < _READS and time.monotonic() < deadline:
            held, before = stream._pace.holds, load.rows
            read += count_inserts(stream)
            if held and stream._pace.holds:
                whole.append(read >= before)
        assert load.end() > 0
    assert len(whole) == _READS
    assert whole.count(True) > 0.9 * _READS


def test_a_walsender_that_is_held_gives_up_a_reader_that_hangs(pipelines: Pipelines):
    """By its timeout, which it does not look at while it is held."""
    pipeline = pipelines.new(TABLE).init()
    set_for_database(pipeline.leader, wal_sender_timeout=_TIMEOUT)
    with streaming(pipeline) as stream, Committing(pipeline.leader) as load, ThreadPoolExecutor() as threads:
        watch = threads.submit(stands_still, pipeline.leader, stream.backend_pid, "ClientRead")
        while not watch.done():
            count_inserts(stream)
        assert watch.result()
        # When nobody reads after a read that made it stand still.
        while rows_of(pipeline.leader, _WAITS_FOR % stream.backend_pid) != [("ClientRead",)]:
            count_inserts(stream)
        load.end()
        # Then it is let go, and finds that its reader says nothing.
        active = _ACTIVE.format(pipeline.group.slot)
        assert wait_for(lambda: rows_of(pipeline.leader, active) == [(False,)], seconds=30)


@contextmanager
def streaming(pipeline: Pipeline) -> Iterator[ReplicationStream]:
    with ReplicationStream(pipeline.leader, "test", LEADER) as stream:
        stream.start(pipeline.group.slot, pipeline.group.slot, 0)
        yield stream


def count_inserts(stream: ReplicationStream) -> int:
    return sum(len(frame) > XLOG_HEADER_SIZE and frame[XLOG_HEADER_SIZE] == INSERT for frame in stream.read(2**20, 1.0))


def stands_still(leader: str, walsender: int, event: str) -> bool:
    """Whether for a second or so it waits for `event` more often than for WAL."""
    found: deque[str] = deque(maxlen=100)
    deadline = time.monotonic() + 60
    for waited in waits(leader, walsender):
        found.append(waited.lower())  # the names' case is up to the version
        if len(found) == found.maxlen and found.count(event.lower()) > found.count("walsenderwaitforwal"):
            return True
        if time.monotonic() > deadline:
            return False
    raise AssertionError("the walsender has ended")


def waits(leader: str, walsender: int) -> Iterator[str]:
    """What it waits for, again and again, nothing being empty."""
    with psycopg.connect(leader, autocommit=True) as connection:
        while row := connection.execute(_WAITS_FOR, [walsender]).fetchone():
            yield row[0] or ""
            time.sleep(_LOOK_SECONDS)
