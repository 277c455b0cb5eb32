"""Sequences of a node that is to lead: logical replication brings rows, not the sequences that numbered them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

import psycopg
from psycopg import sql

from cdc.events.table import TableId

_SEQUENCES = """
SELECT n.nspname, c.relname, s.seqstart, s.seqincrement, s.seqmin, s.seqmax, tn.nspname, tc.relname, a.attname,
       CASE WHEN has_sequence_privilege(c.oid, 'SELECT, USAGE') THEN pg_sequence_last_value(c.oid) END,
       has_sequence_privilege(c.oid, 'SELECT')
FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid
    AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0
LEFT JOIN pg_class tc ON tc.oid = d.refobjid LEFT JOIN pg_namespace tn ON tn.oid = tc.relnamespace
LEFT JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
    AND a.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype)
    AND EXISTS (
        SELECT FROM pg_index i JOIN pg_class ic ON ic.oid = i.indexrelid JOIN pg_am m ON m.oid = ic.relam
        WHERE i.indrelid = tc.oid AND i.indkey[0] = a.attnum AND i.indisvalid AND i.indpred IS NULL
          AND m.amname = 'btree')
WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'cdc')
"""
_AT_ONCE = 500
"""So many sequences in one query: each takes a lock."""


@dataclass(frozen=True, slots=True)
class Sequence:
    """A sequence of this node, and the value before its next one here; None for one that was neither used nor moved, or
    that the role may not read. `column` owns it, and has an index that tells its furthest value: nobody can wait for a
    large table to be read, and without an index two rows of one number are no conflict."""

    name: TableId
    start: int
    increment: int
    minimum: int
    maximum: int
    table: TableId | None
    column: str | None
    last_value: int | None

    def further(self, *values: int | None) -> int | None:
        """Of these values the one that the sequence comes to last."""
        known = [value for value in values if value is not None]
        if not known:
            return None
        return max(known) if self.increment > 0 else min(known)

    def ahead(self, value: int, margin: int) -> int:
        """`margin` steps after `value`; half of what is left where that is not so much."""
        left = (self.maximum - value) if self.increment > 0 else (value - self.minimum)
        steps = min(margin, left // abs(self.increment) // 2)
        return value + max(0, steps) * self.increment


def sequences(connection: psycopg.Connection) -> list[Sequence]:
    """All of the database, but those of system schemas and ours."""
    found, unused = [], []
    for row in connection.execute(_SEQUENCES).fetchall():
        schema, name, start, increment, minimum, maximum, owner_schema, owner, column, last_value, readable = row
        table = TableId(owner_schema, owner) if owner is not None else None
        sequence = Sequence(TableId(schema, name), start, increment, minimum, maximum, table, column, last_value)
        found.append(sequence)
        if last_value is None and readable:
            unused.append(sequence)
    moved = _set_without_use(connection, unused)
    return [replace(sequence, last_value=moved.get(sequence.name, sequence.last_value)) for sequence in found]


def last_values(connection: psycopg.Connection) -> dict[TableId, int]:
    """What is known of each sequence: where it goes on."""
    return {each.name: each.last_value for each in sequences(connection) if each.last_value is not None}


def _set_without_use(connection: psycopg.Connection, unused: list[Sequence]) -> dict[TableId, int]:
    """Of sequences that say no last value, those that RESTART WITH or setval(..., false) moved off their start."""
    found = {}
    for first in range(0, len(unused), _AT_ONCE):
        some = unused[first : first + _AT_ONCE]
        query = sql.SQL(" UNION ALL ").join(
            sql.SQL("SELECT {}::int, last_value FROM {}").format(number, sql.Identifier(*sequence.name))
            for number, sequence in enumerate(some)
        )
        # One may have been dropped meanwhile; the others are seen the next time.
        with suppress(psycopg.errors.UndefinedTable), connection.transaction():
            for number, next_value in connection.execute(query).fetchall():
                sequence = some[number]
                if next_value != sequence.start:
                    before = next_value - sequence.increment
                    found[sequence.name] = before if abs(before) < 2**63 else next_value
    return found


def keep(connection: psycopg.Connection, log: str, values: Mapping[TableId, int]) -> None:
    """On a follower: what the leader's sequences are known to be, for the day when it leads."""
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO cdc.sequence VALUES (%s, %s, %s, %s) ON CONFLICT (log, schema_name, sequence_name) "
            "DO UPDATE SET last_value = excluded.last_value",
            [(log, *name, value) for name, value in values.items()],
        )


def set_at_least(connection: psycopg.Connection, told: Mapping[TableId, int], margin: int) -> int:
    """Every sequence to what was told, or to what its column holds if that is further, and `margin` further; none goes
    back. One of which nothing is known may have been used since it was asked for: with a `margin` it is taken to be at
    its start, without one it is left alone. How many were seen to."""
    count = 0
    for sequence in sequences(connection):
        base = sequence.further(told.get(sequence.name), _furthest_in_column(connection, sequence))
        if base is None:
            if not margin:
                continue
            base = sequence.start - sequence.increment
        wanted = sequence.further(sequence.ahead(base, margin), sequence.last_value)
        assert wanted is not None
        within = min(max(wanted, sequence.minimum), sequence.maximum)
        name = sql.Identifier(*sequence.name).as_string(None)
        # Before the first value: that one is the next.
        connection.execute("SELECT setval(%s::regclass, %s, %s)", (name, within, within == wanted))
        count += 1
    return count


def _furthest_in_column(connection: psycopg.Connection, sequence: Sequence) -> int | None:
    if sequence.table is None or sequence.column is None:
        return None
    which = "max" if sequence.increment > 0 else "min"
    row = connection.execute(
        sql.SQL("SELECT {}({})::bigint FROM {}").format(
            sql.SQL(which), sql.Identifier(sequence.column), sql.Identifier(*sequence.table)
        )
    ).fetchone()
    return row[0] if row else None
