"""Which tables are published: what the patterns match, and the publication itself."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

import psycopg
from psycopg import sql

from cdc.capture_ports import CandidateTable
from cdc.events.table import TableId
from connectors.postgres.connection import translated

_TABLES = """
    SELECT n.nspname, c.relname,
           pg_catalog.pg_has_role(c.relowner, 'USAGE'),
           c.relreplident IN ('f', 'i') OR (c.relreplident = 'd' AND EXISTS (
               SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisprimary))
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p'
      AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'cdc')
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                      WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
    ORDER BY 1, 2
"""
"""Permanent tables, partitioned ones and their partitions; not those that belong to an extension."""


def candidates(conn: psycopg.Connection, patterns: Sequence[str], where: str) -> list[CandidateTable]:
    """Tables that one of the `schema.table` patterns matches, by schema and name."""
    with translated(where):
        rows = conn.execute(_TABLES).fetchall()
    return [
        CandidateTable(TableId(schema, name), owned, has_identity)
        for schema, name, owned, has_identity in rows
        if any(_matches(schema, name, pattern) for pattern in patterns)
    ]


def published_tables(conn: psycopg.Connection, publication: str, where: str) -> set[TableId] | None:
    """The tables that the publication lists; None when it does not exist."""
    with translated(where):
        found = conn.execute("SELECT FROM pg_catalog.pg_publication WHERE pubname = %s", (publication,)).fetchone()
        if found is None:
            return None
        rows = conn.execute(
            "SELECT n.nspname, c.relname FROM pg_catalog.pg_publication p "
            "JOIN pg_catalog.pg_publication_rel r ON r.prpubid = p.oid "
            "JOIN pg_catalog.pg_class c ON c.oid = r.prrelid "
            "JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE p.pubname = %s",
            (publication,),
        ).fetchall()
    return {TableId(schema, name) for schema, name in rows}


def publish(conn: psycopg.Connection, publication: str, tables: Sequence[TableId], where: str) -> None:
    """Create the publication for `tables`, or set it to them. One statement."""
    name = sql.Identifier(publication)
    listed = sql.SQL(", ").join(sql.Identifier(table.schema, table.name) for table in tables)
    exists = published_tables(conn, publication, where) is not None
    form = "ALTER PUBLICATION {} SET TABLE {}" if exists else "CREATE PUBLICATION {} FOR TABLE {}"
    with translated(where):
        conn.execute(sql.SQL(form).format(name, listed))


def _matches(schema: str, name: str, pattern: str) -> bool:
    """Like fnmatch, but a pattern's schema and table are matched apart: a name may hold a dot."""
    pattern_schema, _, pattern_name = pattern.partition(".")
    return fnmatchcase(schema, pattern_schema) and fnmatchcase(name, pattern_name)
