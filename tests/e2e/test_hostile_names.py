"""Names are quoted wherever they go: tables, columns and types with the names that break what puts SQL together."""

from __future__ import annotations

import ast
import re

import psycopg
import pytest
from psycopg import sql

from cdc.local.processes import wait_for
from tests.fixtures.pipeline import Pipelines
from tests.support.pipeline import FOLLOWER, Pipeline, rows_of, run_sql
from tests.support.watched import APPLY

NAMES = [
    '"; DROP TABLE public.victim; --',
    "'; DROP TABLE public.victim; --",
    """a"b'c\\d""",
    "%s %(x)s %% %",
    "{} {0} {table}",
    "new\nline",
    "\\. \\N \\copy",
    "tab\tand \x1b[2J",
    "😀 ä 日本",
    "x" * 63,
    " .a.b. ",
    "$1 :x $$",
    "/* -- */",
    "select",
    "SELECT",
]
SCHEMA = "\"; DROP SCHEMA public CASCADE; -- %s {} ' ."
ENUM = "mood\"; -- ' %s {}"
LABELS = ["it's", '"x"', "%s", "a\\b", "{}"]


def quoted(*name: str) -> str:
    return sql.Identifier(*name).as_string(None)


def text(value: str) -> str:
    return sql.Literal(value).as_string(None)


def tables() -> list[tuple[str, str]]:
    """Each name is that of a table, of its key, and of a column of the table before; half are in such a schema."""
    return [((SCHEMA if number % 2 else "public"), name) for number, name in enumerate(NAMES)]


def ddl() -> list[str]:
    enum = quoted("public", ENUM)
    statements = [
        "CREATE TABLE public.victim (id int PRIMARY KEY)",
        "INSERT INTO public.victim SELECT generate_series(1, 10)",
        f"CREATE SCHEMA {quoted(SCHEMA)}",
        f"CREATE TYPE {enum} AS ENUM ({', '.join(map(text, LABELS))})",
    ]
    for (schema, name), other in zip(tables(), NAMES[1:] + NAMES[:1], strict=True):
        columns = f"{quoted(name)} int PRIMARY KEY, {quoted(other)} text, m {enum}"
        statements.append(f"CREATE TABLE {quoted(schema, name)} ({columns})")
        statements.append(f"INSERT INTO {quoted(schema, name)} VALUES (0, {text(other)}, {text(LABELS[0])})")
    keyless = quoted("public", f"keyless {NAMES[3]}")
    return [
        *statements,
        f"CREATE TABLE {keyless} ({quoted(NAMES[0])} text, {quoted(NAMES[3])} text)",
        f"ALTER TABLE {keyless} REPLICA IDENTITY FULL",
    ]


def changes(first: int, count: int) -> list[str]:
    """Of every table: rows that come, are changed, get another key, and go."""
    statements = []
    for (schema, name), other in zip(tables(), NAMES[1:] + NAMES[:1], strict=True):
        table, key, value = quoted(schema, name), quoted(name), quoted(other)
        mine = f"{key} BETWEEN {first} AND {first + count - 1}"
        statements += [
            f"INSERT INTO {table} SELECT i, {text(name)}, {text(LABELS[2])} "
            f"FROM generate_series({first}, {first + count - 1}) i",
            f"UPDATE {table} SET {value} = {text(other)} || {key} WHERE {mine}",
            f"UPDATE {table} SET {key} = {key} + 100000 WHERE {mine} AND {key} % 3 = 0",
            f"DELETE FROM {table} WHERE {mine} AND {key} % 5 = 0",
        ]
    keyless = quoted("public", f"keyless {NAMES[3]}")
    statements += [
        f"INSERT INTO {keyless} SELECT i::text, {text(NAMES[0])} FROM generate_series({first}, {first + 9}) i",
        f"UPDATE {keyless} SET {quoted(NAMES[3])} = {text(NAMES[5])} WHERE {quoted(NAMES[0])} = {text(str(first))}",
        f"DELETE FROM {keyless} WHERE {quoted(NAMES[0])} = {text(str(first + 1))}",
    ]
    return statements


@pytest.fixture
def pipeline(pipelines: Pipelines, postgres_version: int) -> Pipeline:
    return pipelines.new(*ddl(), version=postgres_version, tables=("*.*",)).init().bootstrap().start()


@pytest.mark.newest_first
def test_hostile_names_go_all_the_way_and_do_nothing(pipeline: Pipeline, postgres_version: int):
    follower = pipeline.followers[FOLLOWER]
    # Given such tables on both sides, when rows change one by one, and in sets.
    pipeline.execute(*changes(1, 3))
    pipeline.catch_up()
    pipeline.assert_equal()
    pipeline.transact(*changes(1000, 150))
    pipeline.catch_up()
    pipeline.assert_equal()

    # When a column joins, the applier asks for a statement that can be run as it stands.
    schema, name = tables()[3]
    column = f"{NAMES[2]} {NAMES[3]}"
    pipeline.execute(f"ALTER TABLE {quoted(schema, name)} ADD COLUMN {quoted(column)} {quoted('public', ENUM)}")
    pipeline.execute(f"UPDATE {quoted(schema, name)} SET {quoted(column)} = {text(LABELS[3])}")
    asked = wait_until_asked(pipeline)
    run_sql(follower, "SET default_transaction_read_only = off", "SET session_replication_role = replica", asked)
    pipeline.execute(*changes(5000, 2))
    pipeline.catch_up()
    pipeline.assert_equal()

    # When they are truncated, all at once.
    pipeline.execute(f"TRUNCATE {', '.join(quoted(*table) for table in tables())} RESTART IDENTITY CASCADE")
    pipeline.catch_up()
    pipeline.assert_equal()

    # Then the tools show them on one line each, without moving the cursor, and nothing else happened.
    pipeline.run("lag")
    shown = pipeline.run("tail", "--limit", "1000")
    assert "\x1b" not in shown
    assert len(shown.splitlines()) <= 1000
    for dsn in (pipeline.leader, follower):
        assert rows_of(dsn, "SELECT count(*) FROM public.victim") == [(10,)]


def wait_until_asked(pipeline: Pipeline) -> str:
    pattern = re.compile(
        r"session_replication_role = replica: .*(ALTER TABLE .*?)(?: service=| attempt=|$)", re.MULTILINE
    )

    def found() -> re.Match[str] | None:
        return pattern.search(asked(pipeline))

    assert wait_for(lambda: found() is not None, seconds=60), pipeline.log_of(APPLY)
    match = found()
    assert match is not None
    return match[1]


def asked(pipeline: Pipeline) -> str:
    """The errors of the applier, as they were before the log quoted them."""
    lines = [line for line in pipeline.log_of(APPLY).splitlines() if "blocked until somebody acts" in line]
    values = [line.partition("error=")[2] for line in lines]
    return "\n".join(_unquoted(value) for value in values)


def _unquoted(value: str) -> str:
    if value[:1] not in ("'", '"'):
        return value
    end = re.match(r"""(?s)'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", value)
    assert end is not None, value
    return str(ast.literal_eval(end[0]))


def test_a_hostile_pattern_matches_only_what_it_names(pipelines: Pipelines):
    pipeline = pipelines.new(
        "CREATE TABLE t (id int PRIMARY KEY)", "CREATE TABLE u (id int PRIMARY KEY)", tables=("public.t' OR true --",)
    )
    done = pipeline.group.run("init")
    assert done.returncode == 3
    assert "no table matches" in done.stderr
    with psycopg.connect(pipeline.leader) as connection:
        assert connection.execute("SELECT count(*) FROM pg_publication").fetchone() == (0,)
