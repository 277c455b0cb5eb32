"""Rows that one node must take over from another one as that has them: those with some keys, or whole tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import psycopg
from psycopg import sql

from cdc.errors import CheckError
from cdc.events.table import TableId
from cdc.events.touched import Key, TouchedTable
from connectors.postgres.catalog import TableFacts, table_facts

_BATCH = 500
"""Keys a statement."""
_CHUNK_BYTES = 256 * 1024


def copy_touched(
    source: psycopg.Connection, target: psycopg.Connection, table: TableId, touched: TouchedTable, where: str
) -> int:
    """Make the touched rows of `table` in `target` what they are in `source`; how many there are now.

    Runs in the open transactions of both, which should be a snapshot here and one transaction there.
    """
    facts = _same_columns(source, target, table, where)
    if facts.partitioned:
        return 0  # its rows are its partitions' rows
    if touched.whole:
        target.execute(sql.SQL("DELETE FROM ONLY {}").format(sql.Identifier(*table)))
        return _copy(source, target, table, facts, sql.SQL(""))
    count = 0
    for keys in _batches(touched.keys):
        target.execute(
            sql.SQL("DELETE FROM ONLY {} AS t {}").format(sql.Identifier(*table), _those(facts, touched, keys))
        )
    for keys in _batches(touched.keys):
        count += _copy(source, target, table, facts, _those(facts, touched, keys))
    return count


def rows_with(
    source: psycopg.Connection, table: TableId, columns: tuple[str, ...], keys: Sequence[Key]
) -> dict[Key, dict[str, str | None]]:
    """The rows with these keys, as text by column name."""
    facts = table_facts(source, table)
    if facts is None or not columns:
        return {}
    names = list(dict.fromkeys((*facts.columns, *columns)))
    wanted = sql.SQL(", ").join(sql.SQL("t.{}::text").format(sql.Identifier(name)) for name in names)
    found = source.execute(
        sql.SQL("SELECT {} FROM ONLY {} AS t {}").format(
            wanted, sql.Identifier(*table), _those(facts, TouchedTable(columns), list(keys))
        )
    ).fetchall()
    rows = [dict(zip(names, row, strict=True)) for row in found]
    return {tuple(row[name] for name in columns): row for row in rows}


def _same_columns(source: psycopg.Connection, target: psycopg.Connection, table: TableId, where: str) -> TableFacts:
    here, there = table_facts(source, table), table_facts(target, table)
    if here is None or there is None or set(here.columns) != set(there.columns):
        raise CheckError(
            f"table {table} has not the same columns on both nodes",
            "make them equal, or bootstrap this node anew",
            where,
        )
    return here


def _copy(
    source: psycopg.Connection, target: psycopg.Connection, table: TableId, facts: TableFacts, which: sql.Composable
) -> int:
    names = sql.SQL(", ").join(map(sql.Identifier, facts.columns))
    read = sql.SQL("COPY (SELECT {} FROM ONLY {} AS t {}) TO STDOUT").format(names, sql.Identifier(*table), which)
    write = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(*table), names)
    with source.cursor() as out, target.cursor() as into:
        with out.copy(read) as rows, into.copy(write) as sink:
            for row in rows:
                sink.write(row)
        return into.rowcount


def _those(facts: TableFacts, touched: TouchedTable, keys: Sequence[Key]) -> sql.Composed:
    """WHERE the key is one of `keys`; values are quoted, as COPY takes no parameters."""
    columns = touched.columns
    arrays = [sql.Literal([key[index] for key in keys]) for index in range(len(columns))]
    tests = [
        sql.SQL("t.{0} {1} k.{2}::{3}").format(
            sql.Identifier(name), sql.SQL(facts.equality.get(name, "=")), sql.Identifier(f"k{index}"),
            sql.SQL(facts.type_of(name)),
        )
        for index, name in enumerate(columns)
    ]  # fmt: skip
    return sql.SQL("WHERE EXISTS (SELECT FROM unnest({}) AS k ({}) WHERE {})").format(
        sql.SQL(", ").join(sql.SQL("{}::text[]").format(array) for array in arrays),
        sql.SQL(", ").join(sql.Identifier(f"k{index}") for index in range(len(columns))),
        sql.SQL(" AND ").join(tests),
    )


def _batches(keys: set[Key]) -> Iterator[list[Key]]:
    remaining = iter(keys)
    while batch := list(islice(remaining, _BATCH)):
        yield batch
