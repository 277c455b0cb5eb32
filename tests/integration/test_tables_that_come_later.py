"""A table that joins the publication later is a follower's table like any other."""

from __future__ import annotations

import psycopg
import pytest

from tests.fixtures.pipeline import Pipelines
from tests.support.pipeline import FOLLOWER, rows_of, run_sql

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


@pytest.mark.newest_first
def test_table_that_was_dropped_and_made_anew_comes_back_whole(pipelines: Pipelines, postgres_version: int):
    # Given a running group whose leader drops a table and makes another one of its name.
    table = "CREATE TABLE again (id int PRIMARY KEY, v text)"
    pipeline = pipelines.new(table, "CREATE TABLE other (id int PRIMARY KEY)", version=postgres_version)
    pipeline.init().bootstrap().start()
    pipeline.execute("INSERT INTO again SELECT i, 'first' FROM generate_series(1, 300) i")
    pipeline.catch_up()
    pipeline.execute(f"BEGIN; DROP TABLE again; {table}; COMMIT", "INSERT INTO again VALUES (7, 'second'), (1000, 'x')")

    # Then capture ends, and says so, because nobody publishes it.
    assert pipeline.ends("capture", 60) == 4
    assert "table public.again is not in it any more" in pipeline.log_of("capture")

    # When it is published again, then init says what the followers lack.
    said = pipeline.run("init")
    assert "public.again joins; followers do not get the rows that it holds" in said
    pipeline.start_capture()
    pipeline.execute("INSERT INTO other VALUES (1)")
    pipeline.catch_up()
    assert rows_of(pipeline.followers[FOLLOWER], "SELECT count(*) FROM again WHERE v = 'first'") == [(300,)]

    # And when its rows are written anew as it says, then they are on the followers, and no others.
    pipeline.execute(
        "BEGIN; CREATE TEMPORARY TABLE aside ON COMMIT DROP AS TABLE again; TRUNCATE again; "
        "INSERT INTO again TABLE aside; COMMIT",
        "UPDATE again SET v = v || '!' WHERE id = 7",
    )
    pipeline.catch_up()
    pipeline.assert_equal()


def test_init_tells_an_empty_table_from_one_with_rows(pipelines: Pipelines):
    pipeline = pipelines.new("CREATE TABLE first (id int PRIMARY KEY)").init()
    pipeline.execute(*LATER, "INSERT INTO later VALUES (1, 'x')", "INSERT INTO later_parts VALUES (7)")
    said = pipeline.run("init")

    for table in ("public.later", "public.later_part"):
        assert f"{table} joins; followers do not get the rows" in said
    for table in ("public.later_parts", "public.later_heir"):
        assert f"{table} joins, and is empty" in said
    assert "joins" not in pipeline.run("init")
