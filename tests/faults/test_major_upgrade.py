"""PostgreSQL's major upgrade of a whole group, as ops/reference/upgrading.md tells it: followers, then the leader."""

from __future__ import annotations

import psycopg
import pytest

from cdc.local import PostgresServer
from cdc.local.processes import Account, run_child, unprivileged_account
from tests.fixtures.pipeline import Pipelines
from tests.fixtures.servers import NEWEST, SYSTEM, OwnPostgres
from tests.support.pipeline import FOLLOWER, LEADER, Pipeline, rows_of, run_sql

pytestmark = [pytest.mark.faults, pytest.mark.long]

TABLE = "CREATE TABLE t (id int PRIMARY KEY GENERATED ALWAYS AS IDENTITY, x text)"
ADD = "INSERT INTO t (x) VALUES (repeat('row', 10))"
SYSTEM_ID = "SELECT system_identifier FROM pg_control_system()"


def upgraded(old: PostgresServer, new: PostgresServer) -> None:
    """The data of `old` in `new`, by pg_upgrade; `new` runs then, `old` does not."""
    account: Account | None = unprivileged_account()
    old.stop()
    new.stop()
    log = new.log_path.parent / "pg_upgrade.log"
    # From 18 on initdb makes data with checksums, and pg_upgrade wants both to be alike.
    run_child([new.bin_dir / "pg_checksums", "--disable", new.data_dir], seconds=60, output=log, account=account)
    run_child(
        [
            new.bin_dir / "pg_upgrade",
            "--old-bindir", old.bin_dir, "--new-bindir", new.bin_dir,
            "--old-datadir", old.data_dir, "--new-datadir", new.data_dir,
            "--old-port", str(old.port), "--new-port", str(new.port), "--username", "postgres", "--no-sync",
        ],
        seconds=120, output=log, folder=new.data_dir, account=account,
    )  # fmt: skip
    new.start()


def move(pipeline: Pipeline, node: str, new: PostgresServer) -> None:
    """The node is on `new` from now on, at another address: a daemon reads the dsns when it starts."""
    before = pipeline.nodes[node]
    after = new.dsn(before.rpartition("/")[2])
    config = pipeline.group.config
    config.write_text(config.read_text().replace(before, after))
    pipeline.nodes[node] = after
    if node == FOLLOWER:
        pipeline.followers[node] = after


def test_followers_are_upgraded_first_and_then_the_leader_by_a_promotion(
    pipelines: Pipelines, own_postgres: OwnPostgres
):
    # Given a group on the older version.
    old = own_postgres(SYSTEM, settings={"wal_level": "logical"})
    pipeline = pipelines.new(TABLE, ADD, version=SYSTEM, follower=old).init().bootstrap().start()
    pipeline.execute(ADD)
    pipeline.catch_up()
    assert pipeline.group.stop(f"apply {FOLLOWER}") == 0

    # When the follower is upgraded while the leader goes on.
    pipeline.execute(ADD)
    new = own_postgres(NEWEST, settings={"wal_level": "logical"})
    before = rows_of(old.dsn(), SYSTEM_ID)
    upgraded(old, new)
    assert rows_of(new.dsn(), SYSTEM_ID) != before, "a leader would be taken for itself"
    move(pipeline, FOLLOWER, new)
    assert pipeline.group.stop("capture") == 0
    pipeline.start()

    # Then it goes on from its position, still read-only.
    pipeline.catch_up()
    pipeline.assert_equal()
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        run_sql(pipeline.followers[FOLLOWER], "SET default_transaction_read_only = off", ADD)

    # And it takes over, with the old leader as its follower, which is the older version now.
    pipeline.run("promote", "--follower", FOLLOWER)
    pipeline.group.start("apply", LEADER)
    run_sql(pipeline.nodes[FOLLOWER], ADD)
    token = pipeline.run("token").strip()
    pipeline.run("wait", "--follower", LEADER, "--token", token, "--timeout", "40")
    assert rows_of(pipeline.nodes[LEADER], "SELECT count(*), max(id) FROM t") == [(4, 4)]
