"""What capture asks its leader meanwhile: it neither waits for others' locks nor takes a standby for a loss."""

from __future__ import annotations

import shutil
import time
from typing import Any, cast

import psycopg
import pytest

from cdc.errors import RetryableError
from cdc.events.table import TableId
from cdc.services.guardian import Guardian
from cdc.services.heartbeat import Heartbeat
from connectors.postgres.leader import Leader
from tests.fixtures.servers import OwnPostgres
from tests.support.pipeline import run_sql

SEQUENCE = TableId("public", "t_id_seq")


@pytest.fixture
def dsn(leader_db: str) -> str:
    run_sql(leader_db, "CREATE TABLE t (id serial PRIMARY KEY)", "INSERT INTO t DEFAULT VALUES")
    return leader_db


def test_heartbeats_go_on_while_a_sequence_is_locked(dsn: str):
    with Leader(dsn, "test", "us-east") as leader:
        assert leader.sequences() == {SEQUENCE: 1}
        with psycopg.connect(dsn) as keeper:
            keeper.execute("TRUNCATE t RESTART IDENTITY")
            began = time.monotonic()
            assert leader.sequences() == {}
            assert time.monotonic() - began < 5
            with Heartbeat(lambda: Leader(dsn, "test", "us-east"), b"", 0.1) as heartbeat:
                time.sleep(3)
                assert heartbeat.silence < 1.5
            keeper.rollback()
        assert leader.sequences() == {SEQUENCE: 1}


def test_a_standby_that_lacks_the_slot_is_not_a_slot_that_is_lost(own_postgres: OwnPostgres):
    # Given a dsn that leads to a standby, as one of several hosts may while the primary restarts.
    server = own_postgres(settings={"wal_level": "logical", "hot_standby": "on"})
    with Leader(server.dsn(), "test", "us-east") as leader:
        leader.check_primary()
        run_sql(server.dsn(), "SELECT pg_create_physical_replication_slot('other', true)", "CREATE TABLE t (id int)")
        found = leader.slot("other")
        assert found is not None
        assert found.retained_bytes
    server.stop()
    signal = server.data_dir / "standby.signal"
    signal.touch()
    shutil.chown(signal, server.data_dir.owner())
    server.start()
    # Then that is what capture says, before it looks for anything of its own.
    parts: list[Any] = [None] * 4
    guardian = Guardian(*parts)
    with (
        Leader(server.dsn(), "test", "us-east") as leader,
        pytest.raises(RetryableError, match="this server is a standby"),
    ):
        guardian.inspect(leader, cast(Any, None))
    with Leader(server.dsn(), "test", "us-east") as leader:
        found = leader.slot("other")
        assert found is not None
        assert found.retained_bytes is None, "it writes no WAL"
