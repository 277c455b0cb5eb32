"""Which rows are copied, in which parts, and in which of COPY's formats."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from cdc.copy_ports import Part, TableToCopy
from cdc.events.table import TableId

PART_BYTES = 16 * 2**20
"""A part is what is copied again after a lost connection, and what one worker does while others do the next."""

_FIRST_UNSTABLE_OID = 16384
"""Types made by users have other OIDs in each database, and the binary form of arrays and composites names them."""
_BY_TEXT_ONLY = "^_?(reg|aclitem)"
"""Types whose binary form is such an OID (regclass and its kin: what they name has another one in each database), or
that have none."""

_PUBLISHED = """
SELECT schemaname, tablename, pg_table_size(c.oid),
       pg_relation_size(c.oid) / current_setting('block_size')::int, c.oid::bigint, c.relfilenode::bigint
FROM pg_publication_tables p
JOIN pg_namespace n ON nspname = schemaname JOIN pg_class c ON relnamespace = n.oid AND relname = tablename
WHERE pubname = %s AND c.relkind = 'r' ORDER BY 3 DESC, 1, 2
"""
COLUMNS_OF = """
FROM unnest(%s::text[], %s::text[]) AS w (schema, name)
JOIN pg_namespace n ON n.nspname = schema JOIN pg_class c ON relnamespace = n.oid AND relname = name
JOIN pg_attribute ON attrelid = c.oid AND attnum > 0 AND NOT attisdropped
JOIN pg_type t ON t.oid = atttypid JOIN pg_namespace tn ON tn.oid = typnamespace
WHERE relkind IN ('r', 'p')
"""
"""Of the tables of these schemas and names that are there, each with its type `t` and the schema `tn` of that."""
_COLUMNS = f"""
SELECT n.nspname, relname, attname, format('%%s.%%s %%s', tn.nspname, typname, atttypmod), attgenerated <> '',
       t.oid < {_FIRST_UNSTABLE_OID} AND typtype <> 'c' AND typname !~ '{_BY_TEXT_ONLY}'
{COLUMNS_OF} ORDER BY 1, 2, attnum
"""


@dataclass(frozen=True, slots=True)
class Source:
    """A published table as the snapshot shows it."""

    table: TableId
    bytes: int
    pages: int
    oid: int
    file: int

    def to_copy(self) -> TableToCopy:
        return TableToCopy(self.table, self.bytes)


@dataclass(frozen=True, slots=True)
class CopiedColumn:
    """`type` is schema-qualified, with its modifier; `portable`: its binary form means the same in every database of
    this major version."""

    name: str
    type: str
    generated: bool
    portable: bool


def published(leader: psycopg.Connection, publication: str) -> list[Source]:
    """The tables that hold rows, the largest first; a partitioned one holds none itself."""
    rows = leader.execute(_PUBLISHED, (publication,)).fetchall()
    return [Source(TableId(schema, name), *facts) for schema, name, *facts in rows]


def columns_of(connection: psycopg.Connection, tables: Iterable[TableId]) -> dict[TableId, list[CopiedColumn]]:
    """Of those that are there. A table without columns has none here either."""
    names = list(tables)
    found: dict[TableId, list[CopiedColumn]] = {}
    rows = connection.execute(_COLUMNS, ([t.schema for t in names], [t.name for t in names])).fetchall()
    for schema, table, *column in rows:
        found.setdefault(TableId(schema, table), []).append(CopiedColumn(*column))
    return found


def parts_of(sources: Iterable[Source], part_bytes: int = PART_BYTES) -> Iterator[Part]:
    """Ranges of pages, each about `part_bytes` of the table with its TOAST; the last one has no end.

    No row that the snapshot shows lies behind the pages that there are after it was taken, and none moves while the
    table is locked against being written anew.
    """
    for source in sources:
        count = max(1, min(source.pages, math.ceil(source.bytes / part_bytes)))
        step = math.ceil(source.pages / count)
        count = max(1, math.ceil(source.pages / step)) if step else 1
        for number in range(count):
            end = (number + 1) * step if number + 1 < count else None
            yield Part(source.table, number, number * step, end, source.bytes // count)


@dataclass(frozen=True, slots=True)
class CopyStatements:
    """How the rows of one table leave the leader and come into the follower."""

    table: TableId
    into: TableId
    columns: tuple[str, ...]
    binary: bool

    def read(self, part: Part) -> sql.Composed:
        if part.whole:
            return sql.SQL("COPY {} {} TO STDOUT {}").format(sql.Identifier(*self.table), self._names(), self._how())
        upper = f" AND ctid < '({part.end_page},0)'" if part.end_page is not None else ""
        return sql.SQL("COPY (SELECT {} FROM ONLY {} WHERE ctid >= {}{}) TO STDOUT {}").format(
            sql.SQL(", ").join(map(sql.Identifier, self.columns)), sql.Identifier(*self.table),
            sql.Literal(f"({part.first_page},0)"), sql.SQL(upper), self._how(),
        )  # fmt: skip

    def write(self) -> sql.Composed:
        return sql.SQL("COPY {} {} FROM STDIN {}").format(sql.Identifier(*self.into), self._names(), self._how())

    def _names(self) -> sql.Composable:
        if not self.columns:
            return sql.SQL("")
        return sql.SQL("({})").format(sql.SQL(", ").join(map(sql.Identifier, self.columns)))

    def _how(self) -> sql.SQL:
        return sql.SQL("(FORMAT binary)" if self.binary else "(FORMAT text)")


def statements(
    tables: Sequence[TableId],
    there: Mapping[TableId, list[CopiedColumn]],
    here: Mapping[TableId, list[CopiedColumn]],
    same_version: bool,
    into: Mapping[TableId, TableId],
) -> dict[TableId, CopyStatements]:
    """Binary where both ends have the same major version and every column the same built-in type; `into` names the
    tables that take the rows, where those have another name. `here` is by the names of `tables`."""
    made = {}
    for table in tables:
        copied = [column for column in there.get(table, []) if not column.generated]
        types = {column.name: column.type for column in here.get(table, [])}
        binary = same_version and all(c.portable and types.get(c.name) == c.type for c in copied)
        names = tuple(column.name for column in copied)
        made[table] = CopyStatements(table, into.get(table, table), names, binary)
    return made
