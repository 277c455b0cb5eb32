"""Each yes of `holds` is tried out: the text of every value of one type comes back from a column of the other, and is
what ALTER TABLE makes of the value."""

from __future__ import annotations

import psycopg
from psycopg import sql

from cdc.events.column_types import holds
from cdc.events.table import TableId
from connectors.postgres.catalog import table_facts
from tests.support.contents import PINNED
from tests.support.values import TYPES_DDL, VALUES

LIMITED = {
    "varchar": ("varchar(5)", "varchar(40)", "varchar(5)[]", "varchar(40)[]", "varchar[]"),
    "char": ("char(5)", "char(24)", "bpchar"),
    "numeric": ("numeric(8,3)", "numeric(20,3)", "numeric(20,5)", "numeric(8,3)[]", "numeric[]", "numeric"),
    "times": ("time(0)", "time(3)", "time(6)", "timestamp(2)", "timestamp(6)", "timestamptz(3)", "timetz(1)"),
    "bits": ("bit(5)", "bit(8)", "varbit(5)", "varbit(64)"),
    "whole": ("int2[]", "int4[]", "int8[]"),
    "intervals": ("interval(0)", "interval day to second", "interval"),
}
"""What `VALUES` has no column for; the values are those of the type without a limit, cut to fit."""


def all_types() -> dict[str, list[str]]:
    """Types with values that they take."""
    found = {name: list(values) for group in VALUES.values() for name, values in group.items()}
    for names in LIMITED.values():
        for name in names:
            base = name.partition("(")[0].removesuffix("[]").partition(" day")[0]
            values = found.get(name, []) or found.get(base, []) or ["1.5", "-7", "11.12", "101", "a"]
            found[name] = [f"{{{v}}}" for v in ("1", "23", "NULL")] if name.endswith("[]") else values
    return found


def test_a_yes_means_that_no_text_is_changed(leader_db: str, postgres_version: int):
    # Given a table with a column of every type, and texts of each type's values as the log carries them.
    with psycopg.connect(leader_db, autocommit=True, options=PINNED) as connection:
        for statement in TYPES_DDL:
            connection.execute(statement)
        types = all_types()
        names = {f"c{place}": type_name for place, type_name in enumerate(types)}
        columns = ", ".join(f"{name} {type_name}" for name, type_name in names.items())
        connection.execute(f"CREATE TABLE public.every_type ({columns})")
        facts = table_facts(connection, TableId("public", "every_type"))
        assert facts is not None
        texts = {name: _texts(connection, type_name, types[type_name]) for name, type_name in names.items()}

        # When a column may stand for another one, then each text comes back as it was, and from a cast as well.
        tried = 0
        for here, there in ((here, there) for here in names for there in names):
            if here == there or not holds(facts.types[here], facts.types[there]):
                continue
            if facts.types[there].domain or facts.types[here].domain:
                continue  # the log does not tell a domain from its base type; what a domain refuses is an error
            for text in texts[there]:
                assert _said_again(connection, text, names[here]) == text, f"{names[there]} in {names[here]}"
                cast = _said_again(connection, text, names[there], names[here])
                assert cast == text, f"{names[there]} to {names[here]}"
                tried += 1
        assert tried > 400


def _texts(connection: psycopg.Connection, type_name: str, values: list[str]) -> list[str]:
    found = []
    for value in values:
        try:
            text = _said_again(connection, value, type_name)
            found.append(_said_again(connection, text, type_name))  # rounding can lead out of what can be read again
        except psycopg.DataError:
            continue
    return found


def _said_again(connection: psycopg.Connection, text: str, *type_names: str) -> str:
    """What is said of a text as a value of a type, or cast from each type to the next, by the last one's output
    function."""
    value: sql.Composable = sql.SQL("%s")
    for name in type_names:
        value = sql.SQL("CAST({} AS {})").format(value, sql.SQL(name.replace("%", "%%")))
    row = connection.execute(sql.SQL("SELECT format('%%s', {})").format(value), (text,)).fetchone()
    assert row is not None
    return str(row[0])
