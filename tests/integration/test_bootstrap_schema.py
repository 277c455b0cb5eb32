"""Where the schema of a new follower comes from, and what of a publication it cannot be made with."""

from __future__ import annotations

import pytest

from tests.fixtures.pipeline import Pipelines
from tests.support.pipeline import FOLLOWER, Pipeline, rows_of, run_sql

SCHEMA = (
    "CREATE TABLE item (id int PRIMARY KEY, note varchar(20) NOT NULL, twice int GENERATED ALWAYS AS (id * 2) STORED)",
    "CREATE TABLE part (id int, region text, PRIMARY KEY (id, region)) PARTITION BY LIST (region)",
    "CREATE TABLE part_a PARTITION OF part FOR VALUES IN ('a')",
    "CREATE TABLE part_b PARTITION OF part FOR VALUES IN ('b')",
)
ROWS = (
    "INSERT INTO item SELECT i, 'note ' || i FROM generate_series(1, 500) i",
    "INSERT INTO part SELECT i, CASE WHEN i % 2 = 0 THEN 'a' ELSE 'b' END FROM generate_series(1, 100) i",
)


def bootstrap(pipeline: Pipeline, *options: str) -> tuple[int, str]:
    """Exit code, and the last line of what it said."""
    done = pipeline.group.run("bootstrap", "--follower", FOLLOWER, *options)
    return done.returncode, (done.stderr.splitlines() or [""])[-1]


def goes_on_from_there(pipeline: Pipeline) -> None:
    pipeline.start()
    pipeline.execute("UPDATE item SET note = 'newer' WHERE id < 10", "DELETE FROM part WHERE id < 10")
    pipeline.catch_up()
    pipeline.assert_equal()


def test_a_schema_that_is_there_is_verified_and_kept(pipelines: Pipelines):
    pipeline = pipelines.new(*SCHEMA, *ROWS).init()
    follower = pipeline.followers[FOLLOWER]
    run_sql(
        follower,
        "CREATE TABLE item (id bigint PRIMARY KEY, note varchar(20), mine text)",
        *SCHEMA[1:],
        "CREATE INDEX kept ON part (region)",
    )
    code, said = bootstrap(pipeline, "--schema", "verify")
    assert code == 3
    for words in (
        "public.item.id is pg_catalog.int8 NOT NULL KEY 0, on the leader pg_catalog.int4 NOT NULL KEY 0",
        "public.item.note is pg_catalog.varchar 24, on the leader pg_catalog.varchar 24 NOT NULL",
        "public.item.twice is missing",
        "public.item.mine is not on the leader",
    ):
        assert words in said
    assert rows_of(follower, "SELECT FROM part") == []

    run_sql(follower, "DROP TABLE item", SCHEMA[0], "INSERT INTO item VALUES (1, 'mine')")
    assert bootstrap(pipeline, "--schema", "verify") == (
        3, f"cdc: {FOLLOWER}: table public.item is not empty. To do: empty all published tables, or correct the dsn",
    )  # fmt: skip
    assert rows_of(follower, "SELECT note FROM item") == [("mine",)]

    run_sql(follower, "DELETE FROM item")
    assert pipeline.group.run(
        "bootstrap", "--follower", FOLLOWER, "--schema", "verify", failpoint="bootstrap.copying"
    ).returncode == -9  # fmt: skip
    code, said = bootstrap(pipeline)
    assert (code, "repeat it with --schema verify" in said) == (3, True)
    pipeline.run("bootstrap", "--follower", FOLLOWER, "--schema", "verify")
    assert rows_of(follower, "SELECT FROM pg_class WHERE relname = 'kept'") == [()]
    goes_on_from_there(pipeline)


def test_a_schema_that_is_wider_takes_the_rows_without_being_verified(pipelines: Pipelines):
    pipeline = pipelines.new(*SCHEMA, *ROWS).init()
    run_sql(pipeline.followers[FOLLOWER], "CREATE TABLE item (id int PRIMARY KEY, note text, twice int)", *SCHEMA[1:2])
    code, said = bootstrap(pipeline, "--schema", "none")
    assert code == 3
    assert "does not exist here" in said
    run_sql(pipeline.followers[FOLLOWER], *SCHEMA[2:])
    pipeline.run("bootstrap", "--follower", FOLLOWER, "--schema", "none")
    query = "SELECT id, note FROM item ORDER BY 1"
    assert rows_of(pipeline.followers[FOLLOWER], query) == rows_of(pipeline.leader, query)
    pipeline.assert_equal("public.part")


@pytest.mark.parametrize("what", ["row filter", "column list"])
def test_a_publication_of_parts_of_a_table_is_refused(module_pipelines: Pipelines, what: str):
    """Before anything is made, and again where an older version took it."""
    pipeline = module_pipelines.kept("partial", lambda: module_pipelines.new(*SCHEMA, *ROWS).init())
    slot = pipeline.group.slot
    form = {"row filter": "item WHERE (id > 5)", "column list": "item (id)"}[what]
    run_sql(pipeline.leader, f"ALTER PUBLICATION {slot} SET TABLE {form}, part, part_a, part_b")
    for command in (("init",), ("bootstrap", "--follower", FOLLOWER)):
        done = pipeline.group.run(*command)
        assert done.returncode == 3
        assert f"has a {what} on public.item: followers hold whole tables" in done.stderr.splitlines()[-1]
    run_sql(pipeline.leader, f"ALTER PUBLICATION {slot} SET TABLE item, part, part_a, part_b")


def test_generated_columns_that_are_published_are_computed_here(pipelines: Pipelines):
    """PostgreSQL 18 can send them; the follower computes its own, with the same result."""
    pipeline = pipelines.new(
        *SCHEMA, *ROWS,
        "CREATE TABLE by_generated (id int, tag text NOT NULL GENERATED ALWAYS AS ('t' || id) STORED, note text)",
        "CREATE UNIQUE INDEX tag ON by_generated (tag)",
        "INSERT INTO by_generated SELECT generate_series(1, 5)",
        tables=("public.item", "public.part*", "public.by_generated"),
    )  # fmt: skip
    slot = pipeline.group.slot
    run_sql(
        pipeline.leader,
        f"CREATE PUBLICATION {slot} FOR TABLE by_generated, item, part, part_a, part_b "
        "WITH (publish_generated_columns = stored)",
    )
    run_sql(pipeline.leader, "ALTER TABLE by_generated REPLICA IDENTITY USING INDEX tag")
    pipeline.init().bootstrap()
    pipeline.execute(
        "UPDATE item SET id = id + 1000 WHERE id < 5",
        "INSERT INTO item VALUES (2000, 'two thousand')",
        "UPDATE by_generated SET note = 'by tag' WHERE id = 2",
        "UPDATE by_generated SET id = 9 WHERE id = 3",
        "DELETE FROM by_generated WHERE id = 1",
    )
    goes_on_from_there(pipeline)
