"""A change of a relation is seen; the applier waits before the first row that it cannot place."""

import re

import pytest

from cdc.local.processes import wait_for
from tests.fixtures.pipeline import Pipelines
from tests.support.pipeline import FOLLOWER, rows_of, run_sql

APPLY = f"apply {FOLLOWER}"


def test_a_missing_column_blocks_until_its_ddl_has_run(pipelines: Pipelines, postgres_version: int):
    pipeline = pipelines.new("CREATE TABLE t (id int PRIMARY KEY, x text)", version=postgres_version)
    pipeline.init().bootstrap().start()
    pipeline.execute(
        "INSERT INTO t VALUES (1, 'before')",
        "ALTER TABLE t ADD COLUMN n numeric(10, 2), ADD COLUMN tags text[]",
        "INSERT INTO t VALUES (2, 'after', 1.50, '{a,b}')",
    )

    assert wait_for(lambda: "blocked until somebody acts" in pipeline.log_of(APPLY), seconds=20)
    ddl = re.search(r"ALTER TABLE [^']*", pipeline.log_of(APPLY))
    assert ddl is not None
    assert ddl[0] == 'ALTER TABLE "public"."t" ADD COLUMN "n" numeric(10,2), ADD COLUMN "tags" text[]'
    assert rows_of(pipeline.followers[FOLLOWER], "SELECT * FROM t") == [(1, "before")]

    run_sql(pipeline.followers[FOLLOWER], "SET default_transaction_read_only = off", ddl[0])
    pipeline.catch_up()
    pipeline.assert_equal()
    pipeline.check_running(APPLY)


def test_a_table_that_only_the_leader_has_blocks(pipelines: Pipelines):
    pipeline = pipelines.new("CREATE TABLE t (id int PRIMARY KEY)")
    pipeline.init().bootstrap().start()
    pipeline.execute("CREATE TABLE late (id int PRIMARY KEY, code varchar(9))")
    pipeline.init()
    pipeline.execute("INSERT INTO late VALUES (1, 'x')")

    ddl = 'CREATE TABLE "public"."late" ("id" integer, "code" character varying(9))'
    assert wait_for(lambda: ddl in pipeline.log_of(APPLY), seconds=20), pipeline.log_of(APPLY)

    run_sql(pipeline.followers[FOLLOWER], "SET default_transaction_read_only = off", ddl)
    run_sql(
        pipeline.followers[FOLLOWER], "SET default_transaction_read_only = off", "ALTER TABLE late ADD PRIMARY KEY (id)"
    )
    pipeline.catch_up()
    pipeline.assert_equal()


@pytest.mark.parametrize("ddl", ["ALTER TABLE t DROP COLUMN x", "ALTER TABLE t ADD COLUMN y int"])
def test_columns_that_only_the_follower_has_are_left_alone(pipelines: Pipelines, ddl: str):
    pipeline = pipelines.new("CREATE TABLE t (id int PRIMARY KEY, x text)")
    pipeline.init().bootstrap()
    follower = pipeline.followers[FOLLOWER]
    run_sql(follower, "SET default_transaction_read_only = off", "ALTER TABLE t ADD COLUMN own text DEFAULT 'mine'")
    if "ADD" in ddl:
        run_sql(follower, "SET default_transaction_read_only = off", ddl)
    pipeline.start()
    pipeline.execute("INSERT INTO t SELECT i, 'old' FROM generate_series(1, 300) AS i", ddl)
    pipeline.execute("UPDATE t SET id = id + 1000 WHERE id % 3 = 0", "DELETE FROM t WHERE id % 5 = 0")
    pipeline.catch_up()

    ids = "SELECT id FROM t ORDER BY id"
    assert rows_of(follower, ids) == rows_of(pipeline.leader, ids)
    assert rows_of(follower, "SELECT DISTINCT own FROM t") == [("mine",)]
