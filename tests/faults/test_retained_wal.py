"""The slot moves on when there is nothing to publish; where the leader gave its WAL up, capture says so at once."""

from __future__ import annotations

import time

import pytest

from cdc.local import PostgresServer
from cdc.local.processes import wait_for
from tests.fixtures.pipeline import Pipelines
from tests.fixtures.servers import OwnPostgres
from tests.support.pausing import paused
from tests.support.pipeline import rows_of, run_sql
from tests.support.topic import fatal
from tests.support.watched import DAEMONS, MEGABYTE

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

TABLE = "CREATE TABLE t (id int PRIMARY KEY, x text)"
NOISE = "CREATE TABLE noise (x text)"
SOME_NOISE = "INSERT INTO noise SELECT repeat(md5(i::text), 30) FROM generate_series(1, 2000) i"
"""About two megabytes of WAL."""
MOST_RETAINED = 64 * MEGABYTE
MOST_UNCONFIRMED = 24 * MEGABYTE


@pytest.mark.newest_first
@pytest.mark.parametrize("seconds", [12, pytest.param(600, marks=[pytest.mark.long, pytest.mark.timeout(900)])])
def test_an_idle_leader_beside_busy_databases_does_not_keep_their_wal(
    pipelines: Pipelines, own_postgres: OwnPostgres, postgres_version: int, seconds: int
):
    """With a heartbeat that is too rare to help."""
    server = own_postgres()
    pipeline = pipelines.new(
        TABLE, NOISE, version=postgres_version, leader=server, tables=("public.t",), extra="heartbeat_seconds = 2"
    )
    pipeline.init().bootstrap().start()
    neighbour = server.create_database("neighbour")
    run_sql(neighbour, NOISE)
    query = (
        "SELECT pg_current_wal_lsn() - confirmed_flush_lsn, pg_current_wal_lsn() - restart_lsn, confirmed_flush_lsn "
        f"FROM pg_replication_slots WHERE slot_name = '{pipeline.group.slot}'"
    )
    confirmed = set()
    unconfirmed = retained = 0
    written = rows_of(pipeline.leader, "SELECT pg_current_wal_lsn() - '0/0'::pg_lsn")[0][0]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        run_sql(neighbour, SOME_NOISE, "TRUNCATE noise")
        run_sql(pipeline.leader, SOME_NOISE, "TRUNCATE noise", "CHECKPOINT")
        time.sleep(0.5)
        behind, kept, lsn = rows_of(pipeline.leader, query)[0]
        confirmed.add(lsn)
        unconfirmed, retained = max(unconfirmed, behind), max(retained, kept)
    written = rows_of(pipeline.leader, "SELECT pg_current_wal_lsn() - '0/0'::pg_lsn")[0][0] - written
    print(f"{written / 2**20:.0f} MB written, {unconfirmed / 2**20:.0f} unconfirmed, {retained / 2**20:.0f} retained")
    assert len(confirmed) >= min(3, seconds // 5), "the slot stands"
    assert unconfirmed < MOST_UNCONFIRMED
    assert retained < MOST_RETAINED
    pipeline.execute("INSERT INTO t VALUES (1, 'after')")
    pipeline.catch_up()
    pipeline.assert_equal("public.t")
    pipeline.check_running(*DAEMONS)


def outgrow_slot(server: PostgresServer, dsn: str, slot: str) -> None:
    """Write more WAL than slots may keep, until this one is lost."""
    lost = f"SELECT wal_status = 'lost' FROM pg_replication_slots WHERE slot_name = '{slot}'"

    def more() -> bool:
        run_sql(dsn, SOME_NOISE, "SELECT pg_switch_wal()", "CHECKPOINT")
        return rows_of(dsn, lost) == [(True,)]

    assert wait_for(more, seconds=60), server.tail_of_log()


SMALL_SLOTS = {"max_slot_wal_keep_size": "16MB", "max_wal_size": "32MB", "min_wal_size": "32MB"}


@pytest.mark.newest_first
def test_a_slot_that_is_lost_while_capture_stands_still_ends_it_with_the_reason(
    pipelines: Pipelines, own_postgres: OwnPostgres, postgres_version: int
):
    server = own_postgres(settings=SMALL_SLOTS)
    pipeline = pipelines.new(TABLE, NOISE, version=postgres_version, leader=server, tables=("public.t",))
    pipeline.init().bootstrap().start()
    pipeline.execute("INSERT INTO t VALUES (1, 'before')")
    pipeline.catch_up()
    with paused(pipeline.group.daemon("capture")):
        pipeline.execute("INSERT INTO t VALUES (2, 'in the WAL that is given up')")
        outgrow_slot(server, pipeline.leader, pipeline.group.slot)
    lost = (f"slot {pipeline.group.slot} is lost (wal_removed)", "raise max_slot_wal_keep_size")
    fatal(pipeline, "capture", *lost)
    tried = pipeline.log_of("capture").count("trying again")
    pipeline.start_capture()
    fatal(pipeline, "capture", *lost)
    assert pipeline.log_of("capture").count("trying again") == tried
