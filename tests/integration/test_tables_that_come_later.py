"""A table that joins the publication later is a follower's table like any other."""

from __future__ import annotations

import psycopg
import pytest

from tests.fixtures.pipeline import Pipelines
from tests.support.pipeline import FOLLOWER, run_sql

LATER = (
    "CREATE TABLE later (id int PRIMARY KEY, v text)",
    "CREATE TABLE later_parts (id int PRIMARY KEY) PARTITION BY RANGE (id)",
    "CREATE TABLE later_part PARTITION OF later_parts DEFAULT",
    "CREATE TABLE later_heir (PRIMARY KEY (id)) INHERITS (later)",
)


def test_table_that_was_added_is_replicated_and_read_only(pipelines: Pipelines):
    # Given a running group.
    pipeline = pipelines.new("CREATE TABLE first (id int PRIMARY KEY)").init().bootstrap().start()
    pipeline.catch_up()
    follower = pipeline.followers[FOLLOWER]

    # When tables are made on both sides, published, and written to.
    pipeline.execute(*LATER)
    pipeline.run("init")
    run_sql(follower, "SET default_transaction_read_only = off", *LATER)
    pipeline.execute(
        "INSERT INTO later VALUES (1, 'x')",
        "INSERT INTO later_parts VALUES (7)",
        "INSERT INTO later_heir VALUES (3, 'y')",
    )
    pipeline.catch_up()

    # Then their rows arrive, and nobody else writes there, by way of a parent neither.
    pipeline.assert_equal()
    for statement in (
        "DELETE FROM later",
        "INSERT INTO later VALUES (2)",
        "UPDATE later_heir SET v = NULL",
        "INSERT INTO later_parts VALUES (8)",
        "INSERT INTO later_part VALUES (8)",
        "TRUNCATE later_parts",
    ):
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction, match="this database is a follower"):
            run_sql(follower, "SET default_transaction_read_only = off", statement)
    pipeline.assert_equal()
