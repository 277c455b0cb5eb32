"""By the leader's unix socket messages that come fast gather in its WAL (connectors/postgres/pace.py)."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from cdc.protocol.frames import XLOG_HEADER_SIZE
from cdc.protocol.pgoutput import INSERT
from connectors.postgres.replication import ReplicationStream
from tests.fixtures.pipeline import Pipelines
from tests.support.pipeline import LEADER, Pipeline

COMMITS, ROWS = 5, 150
INSERTS = f"INSERT INTO t SELECT FROM generate_series(1, {ROWS // COMMITS})"
BURST = f"DO $$ BEGIN FOR n IN 1..{COMMITS} LOOP {INSERTS}; COMMIT; END LOOP; END $$"
_PAUSE_SECONDS = 0.005
_LOOK_SECONDS = 0.01
_WAITS_FOR = "SELECT wait_event FROM pg_stat_activity WHERE pid = %s"


@pytest.fixture
def pipeline(pipelines: Pipelines) -> Pipeline:
    return pipelines.new("CREATE TABLE t (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY)", by_socket=True).init()


def test_a_walsender_that_sends_fast_waits_for_its_reader_and_for_few_commits(pipeline: Pipeline):
    enough = threading.Event()
    with ReplicationStream(pipeline.leader, "test", LEADER) as stream, ThreadPoolExecutor() as threads:
        stream.start(pipeline.group.slot, pipeline.group.slot, 0)
        # When a leader commits some ten thousand rows a second, and they are read.
        load = threads.submit(commit, pipeline.leader, enough)
        watch = threads.submit(wants_room, pipeline.leader, stream.backend_pid)
        read = 0
        try:
            while not watch.done():
                read += count_inserts(stream)
        finally:
            enough.set()
        # Then its walsender is in want of room, and seldom of WAL.
        assert watch.result()
        # And all of them arrive.
        deadline = time.monotonic() + 60
        while read < load.result() and time.monotonic() < deadline:
            read += count_inserts(stream)
        assert read == load.result()


def count_inserts(stream: ReplicationStream) -> int:
    return sum(len(frame) > XLOG_HEADER_SIZE and frame[XLOG_HEADER_SIZE] == INSERT for frame in stream.read(2**20, 1.0))


def commit(leader: str, enough: threading.Event) -> int:
    """How many rows. A walsender sends nothing that is not flushed, which without synchronous_commit takes a while."""
    rows = 0
    with psycopg.connect(leader, autocommit=True) as connection:
        while not enough.wait(_PAUSE_SECONDS):
            connection.execute(BURST.encode())
            rows += ROWS
    return rows


def wants_room(leader: str, walsender: int) -> bool:
    """Whether for a second or so it waits for its reader more often than for WAL."""
    found: deque[str] = deque(maxlen=100)
    deadline = time.monotonic() + 60
    for event in waits(leader, walsender):
        found.append(event.lower())
        room, wal = found.count("walsenderwritedata"), found.count("walsenderwaitforwal")
        if len(found) == found.maxlen and room > wal:
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
