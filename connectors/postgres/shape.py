"""Whether a follower's table has a place for every row of a shape, and the DDL that makes one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import psycopg
from psycopg import sql

from cdc.errors import BlockedError
from cdc.events.column_types import NO_LIMIT, ColumnType, holds
from cdc.events.quoting import in_one_line, quoted
from cdc.events.table import Column, ReplicaIdentity, TableId, TableSchema
from cdc.ports import FOLLOWER_SESSION
from connectors.postgres.catalog import TableFacts
from connectors.postgres.connection import translated


def require_place(
    connection: psycopg.Connection,
    schema: TableSchema,
    facts: TableFacts | None,
    log_name: str,
    node: str,
    not_stored: Sequence[TableSchema] = (),
) -> TableFacts:
    """The facts again. Raises BlockedError, with the statement to run, where a row could not be placed as it is.
    `not_stored` are other shapes that the log has described, besides those in `cdc.relation`."""
    shape = _Shape(connection, schema, log_name, node, not_stored)
    with translated(node):
        if facts is None:
            raise shape.no_table()
        error = shape.problem(facts)
    if error is not None:
        raise error
    return facts


def as_described(table: TableId, types: Mapping[str, ColumnType]) -> TableSchema:
    """The shape that the log would describe, for the types of its columns; who finds its rows is left open. Of a domain
    the log names the base type, and no limit."""
    columns = tuple(
        Column(name, type_.name, NO_LIMIT if type_.domain else type_.typmod, key=False) for name, type_ in types.items()
    )
    return TableSchema(table, ReplicaIdentity.DEFAULT, columns)


class _Shape:
    """One shape of the leader beside one table of the follower."""

    def __init__(
        self,
        connection: psycopg.Connection,
        schema: TableSchema,
        log_name: str,
        node: str,
        not_stored: Sequence[TableSchema],
    ) -> None:
        self._connection = connection
        self._schema = schema
        self._not_stored = [other for other in not_stored if other.table == schema.table and other != schema]
        self._log = log_name
        self._node = node
        self._table = quoted(*schema.table)

    def no_table(self) -> BlockedError:
        columns = self._schema.columns
        definitions = ", ".join(map(self._definition, columns))
        return BlockedError(
            f"table {self._schema.table} does not exist here",
            f"{self._types_first(columns)}if the leader renamed it or its schema, rename it here, too; if it is new, "
            f"run on this follower, after {FOLLOWER_SESSION}: CREATE TABLE {self._table} ({definitions}), with the "
            "leader's keys, defaults and partitions",
            self._node,
        )

    def problem(self, facts: TableFacts) -> BlockedError | None:
        """None when there is a place for every row."""
        columns = self._schema.columns
        there = facts.types.keys() | facts.generated.keys()
        missing = [column for column in columns if column.name not in there]
        if missing:
            return self._no_column(missing, facts)
        unlike = [column for column in columns if column.name in facts.types and not self._fits(column, facts)]
        return self._other_type(unlike, facts) if unlike else None

    def _fits(self, column: Column, facts: TableFacts) -> bool:
        here = facts.types[column.name]
        there = ColumnType(column.type, column.typmod)
        if holds(here, there):
            return here.domain or here == there or self._never_changed(column)
        # The same type in another schema, as extensions are: it is not here under the leader's name.
        same_name = self._names(here.name)[1] == self._names(column.type)[1]
        return same_name and here.typmod in (-1, column.typmod) and not self._known(column)

    def _never_changed(self, column: Column) -> bool:
        """Whether the leader's column always had this type: then it is the follower's that was widened. A change on
        the leader may have written values anew, of which the log says nothing: the follower must run it, too."""
        rows = self._connection.execute(
            "SELECT DISTINCT c->>1, (c->>2)::int FROM cdc.relation, jsonb_array_elements(description->'columns') c "
            "WHERE log = %s AND description->>'schema' = %s AND description->>'table' = %s AND c->>0 = %s",
            (self._log, *self._schema.table, column.name),
        ).fetchall()
        described = (other for shape in self._not_stored for other in shape.columns if other.name == column.name)
        return {*rows, *((other.type, other.typmod) for other in described)} == {(column.type, column.typmod)}

    def _no_column(self, missing: Sequence[Column], facts: TableFacts) -> BlockedError:
        names = ", ".join(column.name for column in missing)
        added = ", ".join(f"ADD COLUMN {self._definition(column)}" for column in missing)
        return BlockedError(
            f"table {self._schema.table} has no column {names}",
            f"{self._types_first(missing)}run on this follower, after {FOLLOWER_SESSION}: "
            f"{self._renames(missing, facts)}if new on the leader, with the DEFAULT that it "
            f"was given there: ALTER TABLE {self._table} {added}",
            self._node,
        )

    def _renames(self, missing: Sequence[Column], facts: TableFacts) -> str:
        """Which of the columns that only the follower has may have got a new name on the leader."""
        sent = {column.name for column in self._schema.columns}
        own = [name for name in facts.types if name not in sent]
        pairs = [
            f"ALTER TABLE {self._table} RENAME COLUMN {quoted(name)} TO {quoted(column.name)}"
            for column in missing
            for name in own
            if facts.types[name].name == column.type
        ]
        return f"if renamed on the leader: {' or '.join(pairs)}; " if pairs else ""

    def _other_type(self, unlike: Sequence[Column], facts: TableFacts) -> BlockedError:
        told = ", ".join(
            f"{column.name} is {facts.columns[column.name]} here and {self._type(column)} on the leader"
            for column in unlike
        )
        changes = ", ".join(
            f"ALTER COLUMN {quoted(column.name)} TYPE {self._type(column)}{self._using(column, facts)}"
            for column in unlike
        )
        return BlockedError(
            f"table {self._schema.table} has another type: column {told}",
            f"{self._types_first(unlike)}run on this follower, with the leader's USING if it had one, after "
            f"{FOLLOWER_SESSION}: ALTER TABLE {self._table} {changes}",
            self._node,
        )

    def _using(self, column: Column, facts: TableFacts) -> str:
        """ALTER TABLE goes by assignment, which not every cast allows."""
        row = self._connection.execute(
            "SELECT typcategory = 'S' OR t.oid = h.oid OR EXISTS (SELECT FROM pg_cast "
            "WHERE castsource = h.oid AND casttarget = t.oid AND castcontext <> 'e') "
            "FROM pg_type t, (SELECT to_regtype(%s)::oid AS oid) h WHERE t.oid = to_regtype(%s)",
            (self._raw(facts.types[column.name].name), self._raw(column.type)),
        ).fetchone()
        assigned = row is None or row[0]
        return "" if assigned else f" USING {quoted(column.name)}::{self._type(column)}"

    def _definition(self, column: Column) -> str:
        return f"{quoted(column.name)} {self._type(column)}"

    def _type(self, column: Column) -> str:
        """As DDL writes it, with its modifier; a type that is unknown here by its name only."""
        row = self._connection.execute(
            "SELECT format_type(to_regtype(%s), %s)", (self._raw(column.type), column.typmod)
        ).fetchone()
        if row and row[0]:
            return in_one_line(str(row[0]))
        schema, element = self._names(self._element(column.type))
        return quoted(schema, element) + ("[]" if self._element(column.type) != column.type else "")

    def _known(self, column: Column) -> bool:
        return self._connection.execute("SELECT to_regtype(%s)", (self._raw(column.type),)).fetchone() != (None,)

    def _types_first(self, columns: Sequence[Column]) -> str:
        unknown = sorted({self._element(column.type) for column in columns if not self._known(column)})
        return f"make the type {', '.join(unknown)} as it is on the leader; then " if unknown else ""

    def _element(self, type_name: str) -> str:
        """The type of what an array holds; PostgreSQL names the array after it."""
        schema, name = self._names(type_name)
        return f"{schema}.{name.removeprefix('_')}"

    def _raw(self, type_name: str) -> str:
        """For the server, which needs no line of its own."""
        return sql.Identifier(*self._names(type_name)).as_string(None)

    def _names(self, type_name: str) -> tuple[str, str]:
        """Schema and type. Either may hold a dot: a schema that is here decides, at best one that has the type."""
        row = self._connection.execute(_SPLIT, {"name": type_name}).fetchone()
        schema, _, name = type_name.rpartition(".")
        return (row[0], row[1]) if row else (schema, name)


_SPLIT = """
SELECT nspname::text, substr(%(name)s, length(nspname) + 2) FROM pg_namespace n
WHERE starts_with(%(name)s, nspname || '.')
ORDER BY EXISTS (SELECT FROM pg_type WHERE typnamespace = n.oid AND typname = substr(%(name)s, length(nspname) + 2))
    DESC, length(nspname) DESC LIMIT 1
"""
