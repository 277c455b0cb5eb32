"""What the catalog of a node says about one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import psycopg

from cdc.events.column_types import ColumnType
from cdc.events.table import TableId


@dataclass(frozen=True)
class TableFacts:
    """`columns` maps the name of each column that can be written to its type as SQL writes it, `types` to its type as
    the log names it, `arrays` to the type of its arrays as SQL writes it, where `unnest` makes one column of one;
    `generated` the names of the others to their types as SQL writes them.

    `primary_key` is empty when there is none that is checked at once: a deferrable key can be held by two
    rows inside a statement, so it does not find a row. `unique_indexes` counts all unique and exclusion indexes but
    the one on the key, as lists of columns. `equality` is the operator by which a unique index compares a column:
    a type of an extension has its own, which is not on our search_path. `collation` is that of the index where it is
    not the column's own, or values of the column's type have another one. `firing_triggers`, rules among them, fire
    even for the applier. `always` are identity columns that no UPDATE may set (GENERATED ALWAYS AS IDENTITY).
    """

    partitioned: bool
    columns: dict[str, str]
    types: dict[str, ColumnType]
    arrays: dict[str, str]
    generated: dict[str, str]
    always: frozenset[str]
    primary_key: tuple[str, ...]
    unique_keys: tuple[tuple[str, ...], ...]
    equality: dict[str, str]
    collation: dict[str, str]
    other_unique_indexes: int
    firing_triggers: tuple[str, ...]

    def type_of(self, name: str) -> str:
        """As SQL writes it. A generated column may be part of the replica identity (PostgreSQL 18)."""
        return self.columns.get(name) or self.generated[name]


COLUMNS = """
FROM pg_attribute CROSS JOIN LATERAL (
    WITH RECURSIVE base (oid, typmod, depth) AS (
        SELECT atttypid, atttypmod, 0
        UNION ALL SELECT typbasetype, greatest(typmod, typtypmod), depth + 1
        FROM base JOIN pg_type t USING (oid) WHERE typtype = 'd'
    )
    SELECT nspname || '.' || typname AS name, typmod, depth, (
        SELECT format_type(own.typarray, -1) FROM pg_type own
        WHERE own.oid = atttypid AND own.typarray <> 0 AND own.typdelim = ',' AND t.typtype <> 'c'
            AND has_schema_privilege(own.typnamespace, 'USAGE')
    ) AS arrays
    FROM base JOIN pg_type t USING (oid) JOIN pg_namespace n ON n.oid = typnamespace ORDER BY depth DESC LIMIT 1
) base
WHERE attrelid = ANY(%s) AND attnum > 0 AND NOT attisdropped ORDER BY attrelid, attnum
"""
"""Those of some tables, each with `base`: its type, or that of its domain, and the type of its arrays. None where that
is an array of more dimensions, `unnest` would take its values apart, or our role may not name it. It has no modifier: a
cast to varchar(3)[] cuts values, an assignment of varchar to varchar(3) refuses them."""
_COLUMNS = f"""
SELECT attname, format_type(atttypid, atttypmod), attgenerated <> '', attidentity = 'a',
       base.name, base.typmod, base.depth > 0, base.arrays {COLUMNS}
"""
_TYPES = f"SELECT attrelid::bigint, attname, attgenerated <> '', base.name, base.typmod, base.depth > 0 {COLUMNS}"
_INDEXES = """
SELECT indisprimary, indimmediate AND indpred IS NULL AND indexprs IS NULL AND NOT indisexclusion AS usable,
       (SELECT array_agg(attname::text ORDER BY k.n)
        FROM unnest(indkey::int2[]) WITH ORDINALITY AS k (attnum, n)
        JOIN pg_attribute a ON a.attrelid = indrelid AND a.attnum = k.attnum WHERE k.n <= indnkeyatts)
FROM pg_index WHERE indrelid = %s AND (indisunique OR indisexclusion) AND indisvalid
"""
_EQUALITY = """
SELECT DISTINCT ON (attname) attname::text, format('OPERATOR(%%I.%%s)', n.nspname, oprname),
       CASE WHEN l.oid <> attcollation OR typcollation NOT IN (0, '"default"'::regcollation, l.oid)
            THEN format('%%s.%%I', collnamespace::regnamespace, collname) END
FROM pg_index
CROSS JOIN LATERAL unnest(indkey::int2[], indclass::oid[], indcollation::oid[]) AS k (attnum, opclass, coll)
LEFT JOIN pg_collation l ON l.oid = k.coll
JOIN pg_attribute a ON a.attrelid = indrelid AND a.attnum = k.attnum JOIN pg_type t ON t.oid = atttypid
JOIN pg_opclass c ON c.oid = k.opclass
JOIN pg_amop ON amopfamily = opcfamily AND amopstrategy = 3 AND amoplefttype = opcintype AND amoprighttype = opcintype
JOIN pg_operator o ON o.oid = amopopr JOIN pg_namespace n ON n.oid = oprnamespace
WHERE indrelid = %s AND indisunique AND indisvalid AND NOT indisexclusion
ORDER BY attname, indisreplident DESC, indisprimary DESC
"""
FIRING = """
SELECT tgrelid::bigint, tgname::text FROM pg_trigger
WHERE tgrelid = ANY(%(tables)s) AND NOT tgisinternal AND tgenabled IN ('A', 'R')
UNION ALL
SELECT ev_class::bigint, rulename::text FROM pg_rewrite
WHERE ev_class = ANY(%(tables)s) AND ev_enabled IN ('A', 'R') ORDER BY 1, 2
"""
"""Triggers and rules of some tables that fire for the applier, too."""


_FOREIGN_SEQUENCES = """
SELECT FROM unnest(%s::text[], %s::text[]) AS p (schemaname, tablename)
JOIN pg_namespace n ON nspname = schemaname JOIN pg_class t ON t.relnamespace = n.oid AND t.relname = tablename
JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = t.oid AND d.classid = 'pg_class'::regclass
    AND d.deptype IN ('a', 'i')
JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
WHERE NOT pg_has_role(s.relowner, 'USAGE') LIMIT 1
"""


def table_facts(connection: psycopg.Connection, table: TableId) -> TableFacts | None:
    """None when there is no such ordinary or partitioned table."""
    found = connection.execute(
        "SELECT c.oid, c.relkind = 'p' FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace "
        "WHERE nspname = %s AND relname = %s AND relkind IN ('r', 'p')",
        tuple(table),
    ).fetchone()
    if found is None:
        return None
    oid, partitioned = found
    columns = connection.execute(_COLUMNS, ([oid],)).fetchall()
    indexes = connection.execute(_INDEXES, (oid,)).fetchall()
    equality = connection.execute(_EQUALITY, (oid,)).fetchall()
    triggers = connection.execute(FIRING, {"tables": [oid]}).fetchall()
    usable = [(primary, tuple(names)) for primary, usable, names in indexes if usable and names]
    return TableFacts(
        partitioned=partitioned,
        columns={name: type_name for name, type_name, generated, *_ in columns if not generated},
        types={name: ColumnType(*base) for name, _, generated, _, *base, _ in columns if not generated},
        arrays={name: array for name, _, generated, *_, array in columns if array and not generated},
        generated={name: type_name for name, type_name, generated, *_ in columns if generated},
        always=frozenset(name for name, _, _, always, *_ in columns if always),
        primary_key=next((names for primary, names in usable if primary), ()),
        unique_keys=tuple(names for _, names in usable),
        equality={name: operator for name, operator, _ in equality},
        collation={name: collation for name, _, collation in equality if collation},
        other_unique_indexes=max(0, len(indexes) - 1),
        firing_triggers=tuple(name for _, name in triggers),
    )


def column_types(connection: psycopg.Connection, oids: Sequence[int]) -> dict[int, dict[str, ColumnType]]:
    """By table the columns that are replicated, which generated ones are not."""
    found: dict[int, dict[str, ColumnType]] = {oid: {} for oid in oids}
    for oid, name, generated, *base in connection.execute(_TYPES, (list(oids),)):
        if not generated:
            found[oid][name] = ColumnType(*base)
    return found


def may_restart_identity(connection: psycopg.Connection, tables: Sequence[TableId]) -> bool:
    """Whether our role owns the sequences of these tables, as TRUNCATE ... RESTART IDENTITY asks for.

    A role with the least privileges does not. Followers do not replicate sequences, so nothing depends on it.
    """
    names = [t.schema for t in tables], [t.name for t in tables]
    return connection.execute(_FOREIGN_SEQUENCES, names).fetchone() is None
