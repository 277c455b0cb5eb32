"""By the leader's unix socket messages that come fast gather in its WAL (connectors/postgres/pace.py)."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from cdc.protocol.frames import XLOG_HEADER_SIZE
from cdc.protocol.pgoutput import INSERT
from connectors.postgres.replication import ReplicationStream
from tests.fixtures.pipeline import Pipelines
from tests.support.pipeline import LEADER, Pipeline

BURSTS, COMMITS, ROWS = 300, 5, 150
INSERTS = f"INSERT INTO t SELECT FROM generate_series(1, {ROWS // COMMITS})"
BURST = f"DO $$ BEGIN FOR n IN 1..{COMMITS} LOOP {INSERTS}; COMMIT; END LOOP; END $$"
_PAUSE_SECONDS = 0.005
_WAITS_FOR = "SELECT wait_event FROM pg_stat_activity WHERE pid = %s"


@pytest.fixture
def pipeline(pipelines: Pipelines) -> Pipeline:
    return pipelines.new("CREATE TABLE t (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY)", by_socket=True).init()


def test_a_walsender_that_sends_fast_waits_for_its_reader_and_for_few_commits(pipeline: Pipeline):
    with ReplicationStream(pipeline.leader, "test", LEADER) as stream, ThreadPoolExecutor() as threads:
        stream.start(pipeline.group.slot, pipeline.group.slot, 0)
        # When a leader commits some ten thousand rows a second, and all of them are read.
        load = threads.submit(commit, pipeline.leader)
        waits = threads.submit(watch, pipeline.leader, stream.backend_pid)
        inserts = 0
        deadline = time.monotonic() + 120
        while inserts < BURSTS * ROWS and time.monotonic() < deadline:
            inserts += sum(map(is_insert, stream.read(2**20, 1.0)))
        load.result()
        # Then the walsender was in want of room, and seldom of WAL.
        assert inserts == BURSTS * ROWS
        found = waits.result()
        print({name: found.count(name) for name in set(found)})
        assert found.count("WalSenderWriteData") > found.count("WalSenderWaitForWal")


def is_insert(frame: bytes) -> bool:
    return len(frame) > XLOG_HEADER_SIZE and frame[XLOG_HEADER_SIZE] == INSERT


def commit(leader: str) -> None:
    """Each is on disk at once: a walsender sends nothing before."""
    with psycopg.connect(leader, autocommit=True) as connection:
        for _ in range(BURSTS):
            connection.execute(BURST.encode())
            time.sleep(_PAUSE_SECONDS)


def watch(leader: str, walsender: int) -> list[str]:
    """What it waits for, again and again, in the middle of the load."""
    found = []
    with psycopg.connect(leader, autocommit=True) as connection:
        time.sleep(BURSTS * _PAUSE_SECONDS / 3)
        for _ in range(100):
            (event,) = connection.execute(_WAITS_FOR, [walsender]).fetchone() or (None,)
            found.append(event)
            time.sleep(BURSTS * _PAUSE_SECONDS / 300)
    return found
