"""Rows in the text format of COPY become arrays: a server reads the same cells from both."""

from __future__ import annotations

import psycopg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdc.events.net_effect import Change
from cdc.events.table import Column, ReplicaIdentity, TableId, TableSchema
from connectors.postgres.array_text import array_texts
from connectors.postgres.catalog import table_facts
from connectors.postgres.connection import WatchedConnection, connect
from connectors.postgres.copy_text import copy_text
from connectors.postgres.pipeline import Pipeline
from connectors.postgres.script import Outcome, Step, play
from connectors.postgres.table_statements import TableStatements
from tests.support.pipeline import run_sql
from tests.support.values import TYPES_DDL, VALUES

CELLS = (
    st.none()
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
    | st.sampled_from(
        ["", "NULL", "null", '"', '""', "\\N", '"\\N"', ",", "{}", "{", " a ", "\t", "\r\n", "\\t", "\\\\"]
    )
)
ROWS = st.integers(1, 4).flatmap(
    lambda width: st.lists(st.lists(CELLS, min_size=width, max_size=width), min_size=1, max_size=20)
)


def test_every_cell_arrives(follower_db: str):
    with psycopg.connect(follower_db, autocommit=True) as connection:

        @settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
        @given(ROWS)
        def check(rows: list[list[str | None]]) -> None:
            arrays = [array.decode() for array in array_texts(copy_text(rows), len(rows[0]))]
            query = f"SELECT * FROM unnest({', '.join(['%s::text[]'] * len(arrays))})"
            assert connection.execute(query.encode(), arrays).fetchall() == [tuple(row) for row in rows]

        check()


LIMITED: dict[str, tuple[str | None, ...]] = {
    "varchar(3)": ("abc", "abcd", "abc  ", ""), "char(3)": ("abc", "abcd", "a", "abc  "), "bpchar": ("a ", ""),
    '"char"': ("a", "ab", ""), "name": ("a" * 63, "a" * 64), "bit(3)": ("101", "1011", "1"), "bit": ("1", "10"),
    "bit varying(3)": ("101", "1011", "1"), "numeric(5,2)": ("123.456", "1234", "1.005"), "int2": ("1", "32768", "1.5"),
    "timestamp(2)": ("2026-01-01 00:00:00.129",), "interval(0)": ("1.7 s",), "interval year": ("1 year 2 days",),
    "upto3": ("abc", "abcd"), "filled": ("a", "", None), "three_bits": ("101", "1010"),
}  # fmt: skip
"""Values that fit, the first of each among them, and some that do not."""
DOMAINS = (
    "CREATE DOMAIN upto3 AS varchar(3)", "CREATE DOMAIN filled AS text NOT NULL CHECK (value <> '')",
    "CREATE DOMAIN three_bits AS bit(3)",
)  # fmt: skip
TAKEN_APART = ("pair", "nested", "deep", "pair_or_null", "of_domains", "box")
"""Types whose values `unnest` would take apart, and one whose arrays have another delimiter."""


class OneColumn:
    """A table with a column of one type, and a row in it by each way."""

    def __init__(self, connection: WatchedConnection, pipeline: Pipeline, name: str, first: str | None) -> None:
        self._connection = connection
        self._pipeline = pipeline
        self._name = name
        facts = table_facts(connection, TableId("public", name))
        assert facts is not None
        columns = tuple(Column(name, of.name, of.typmod, name == "id") for name, of in facts.types.items())
        schema = TableSchema(TableId("public", name), ReplicaIdentity.DEFAULT, columns)
        self.table = TableStatements(schema, facts)
        self._first = copy_text([["1", first]])
        connection.rollback()

    def found(self, text: str | None) -> list[object]:
        """The column as text, or None where it takes no such value: by COPY, by INSERT, by UPDATE."""
        rows = copy_text([["1", text]])
        arrays, values = self.table.arrays(("id", "x")).statements, array_texts(rows, 2)
        first, insert = Step(self.table.copy_into, lambda: self._first), Step(arrays["c"], values=values)
        by_copy = self._said(play(self._connection, [Step(self.table.copy_into, lambda: rows)]))
        by_insert = self._said(self._pipeline.play([insert]))
        assert play(self._connection, [first]).error is None
        return [by_copy, by_insert, self._said(self._pipeline.play([Step(arrays["u"], values=values)]))]

    def _said(self, outcome: Outcome) -> object:
        query = f"SELECT x::text FROM public.{self._name}"
        row = None if outcome.error else self._connection.execute(query.encode()).fetchone()
        self._connection.rollback()
        return row


def test_a_column_takes_from_arrays_what_it_takes_from_copy(follower_db: str):
    """A cast would cut a value that does not fit, in silence."""
    types = {name: texts for group in VALUES.values() for name, texts in group.items()} | LIMITED
    tables = [f"CREATE TABLE t{number} (id int PRIMARY KEY, x {name})" for number, name in enumerate(types)]
    run_sql(follower_db, *TYPES_DDL, *DOMAINS, *tables)
    with connect(follower_db, "test", "here", autocommit=False) as connection:
        pipeline = Pipeline(connection)
        tried = refused = 0
        for number, (name, texts) in enumerate(types.items()):
            column = OneColumn(connection, pipeline, f"t{number}", texts[0])
            if not column.table.fit_in_arrays:
                assert name.endswith("[]") or name.removeprefix("public.") in TAKEN_APART, name
                continue
            for text in texts:
                found = column.found(text)
                assert found == found[:1] * 3, (name, text)
                tried += 1
                refused += found[0] is None
    assert tried > 200
    assert refused >= 8


def test_a_key_whose_type_has_another_collation_finds_its_row(follower_db: str):
    run_sql(
        follower_db, 'CREATE DOMAIN k AS text COLLATE "C"', 'CREATE TABLE t (id k COLLATE "POSIX" PRIMARY KEY, x text)',
        "INSERT INTO t VALUES ('a', 'old'), ('b', 'old')",
    )  # fmt: skip
    with connect(follower_db, "test", "here", autocommit=False) as connection:
        pipeline = Pipeline(connection)
        table = OneColumn(connection, pipeline, "t", None).table
        update = Step(table.arrays(("id", "x")).statements["u"], values=[b"{a}", b"{new}"])
        one: Change = ("u", "", None, {"id": "b", "x": "new"}, False, 1, 1, 1)
        delete = Step(table.arrays(("id",)).statements["d"], values=[b"{b}"])
        assert pipeline.play([update, table.one(one), delete]) == Outcome([1, 1, 1], None)


def test_a_type_that_the_role_may_not_name_goes_by_copy(follower_db: str):
    run_sql(
        follower_db, "CREATE SCHEMA hidden", "CREATE TYPE hidden.mood AS ENUM ('ok')",
        "CREATE TABLE t (id int PRIMARY KEY, x hidden.mood)", "GRANT ALL ON t TO pg_monitor",
    )  # fmt: skip
    with connect(follower_db, "test", "here", autocommit=False) as connection:
        assert OneColumn(connection, Pipeline(connection), "t", None).table.fit_in_arrays
        connection.execute("SET SESSION AUTHORIZATION pg_monitor")
        connection.commit()
        assert not OneColumn(connection, Pipeline(connection), "t", None).table.fit_in_arrays
