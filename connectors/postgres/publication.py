"""Which tables are published: what the patterns match, and the publication itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import psycopg
from psycopg import sql

from cdc.capture_ports import CandidateTable, Publication, PublishedTable
from cdc.errors import CheckError, RetryableError
from cdc.events.table import TableId, matches
from connectors.postgres.connection import translated

_LOCK_PATIENCE = "10s"
"""Whoever wants to write the table waits behind us."""

IDENTITY_INDEX = """
    SELECT i.indkey FROM pg_catalog.pg_index i
    WHERE i.indrelid = c.oid AND i.indisvalid AND i.indimmediate
      AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident END
"""
"""Of a table `c`. A deferrable key is no replica identity."""
APPLICATION_TABLES = """
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p')
      AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'cdc')
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                      WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
"""
"""Tables, partitioned ones and their partitions; not those that belong to an extension."""
_TABLES = f"""
    SELECT n.nspname, c.relname, pg_catalog.pg_has_role(c.relowner, 'USAGE'),
           c.relreplident = 'f' OR EXISTS ({IDENTITY_INDEX})
    {APPLICATION_TABLES} AND c.relpersistence = 'p' ORDER BY 1, 2
"""


def candidates(conn: psycopg.Connection, patterns: Sequence[str], where: str) -> list[CandidateTable]:
    """Tables that one of the `schema.table` patterns matches, by schema and name."""
    with translated(where):
        rows = conn.execute(_TABLES).fetchall()
    return [
        CandidateTable(TableId(schema, name), owned, has_identity)
        for schema, name, owned, has_identity in rows
        if matches(TableId(schema, name), patterns)
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


def publication_json(conn: psycopg.Connection, publication: str) -> dict[str, Any] | None:
    """All that decides what is sent, as JSON; None when there is no such publication."""
    version = conn.info.server_version
    newer = version >= 150000
    query = f"""
        SELECT jsonb_build_object(
            'options', jsonb_build_object(
                'insert', pubinsert, 'update', pubupdate, 'delete', pubdelete, 'truncate', pubtruncate,
                'publish_via_partition_root', pubviaroot, 'all tables', puballtables,
                'schemas', {_SCHEMAS if newer else "''"},
                'publish_generated_columns', {"pubgencols" if version >= 180000 else "''"}),
            'tables', (SELECT coalesce(jsonb_agg(jsonb_build_object(
                    'oid', c.oid::bigint, 'schema', n.nspname, 'name', c.relname, 'entry', r.oid::bigint,
                    'columns', {"r.prattrs::text" if newer else "NULL"},
                    'filter', {"pg_get_expr(r.prqual, r.prrelid)" if newer else "NULL"}) ORDER BY c.oid), '[]')
                FROM pg_publication_rel r JOIN pg_class c ON c.oid = r.prrelid
                JOIN pg_namespace n ON n.oid = c.relnamespace WHERE r.prpubid = p.oid))
        FROM pg_publication p WHERE pubname = %s
    """  # noqa: S608 - the parts are constants
    row = conn.execute(query, (publication,)).fetchone()
    return row[0] if row else None


_SCHEMAS = """(SELECT coalesce(string_agg(n.nspname, ', ' ORDER BY 1), '') FROM pg_publication_namespace s
                JOIN pg_namespace n ON n.oid = s.pnnspid WHERE s.pnpubid = p.oid)"""


def publication_from_json(told: dict[str, Any]) -> Publication:
    tables = {
        t["oid"]: PublishedTable(TableId(t["schema"], t["name"]), t["entry"], t["columns"], t["filter"])
        for t in told["tables"]
    }
    return Publication(tables, {name: str(value).lower() for name, value in told["options"].items()})


def check_whole(conn: psycopg.Connection, publication: str, where: str) -> None:
    """Raises CheckError when there is no such publication, or when it leaves out rows or columns of a table."""
    with translated(where):
        told = publication_json(conn, publication)
    if told is None:
        raise CheckError(f"publication {publication} does not exist", "run: cdc init", where)
    publication_from_json(told).check_whole(publication, where)


def existing(conn: psycopg.Connection, tables: Iterable[TableId]) -> frozenset[TableId]:
    """Those of `tables` that are there."""
    names = list(tables)
    rows = conn.execute(
        "SELECT nspname, relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace "
        "JOIN unnest(%s::text[], %s::text[]) AS w (schema, name) ON nspname = w.schema AND relname = w.name "
        "WHERE relkind IN ('r', 'p')",
        ([t.schema for t in names], [t.name for t in names]),
    ).fetchall()
    return frozenset(TableId(schema, name) for schema, name in rows)


def publish(conn: psycopg.Connection, publication: str, tables: Sequence[TableId], where: str) -> dict[TableId, bool]:
    """Create the publication for `tables`, or set it to them, in a transaction of the caller's.

    Returns the tables that join one which is there, and whether rows are in them that were never published. Nobody
    writes them meanwhile, so an answer of no holds. Raises RetryableError when a writer does not end.
    """
    name = sql.Identifier(publication)
    listed = sql.SQL(", ").join(map(_quoted, tables))
    before = published_tables(conn, publication, where)
    joining = [] if before is None else [table for table in tables if table not in before]
    form = "CREATE PUBLICATION {} FOR TABLE {}" if before is None else "ALTER PUBLICATION {} SET TABLE {}"
    with translated(where):
        for table in joining:
            _lock(conn, table, where)
        conn.execute(sql.SQL(form).format(name, listed))
        return {table: _holds_rows(conn, table) for table in joining}


def _lock(conn: psycopg.Connection, table: TableId, where: str) -> None:
    try:
        conn.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(_LOCK_PATIENCE)))
        conn.execute(sql.SQL("LOCK TABLE ONLY {} IN SHARE MODE").format(_quoted(table)))
    except psycopg.errors.LockNotAvailable as error:
        raise RetryableError(
            f"table {table} cannot join the publication: a transaction that writes it does not end",
            "see pg_stat_activity, then run cdc init again",
            where,
        ) from error


def _holds_rows(conn: psycopg.Connection, table: TableId) -> bool:
    return conn.execute(sql.SQL("SELECT FROM ONLY {} LIMIT 1").format(_quoted(table))).fetchone() is not None


def _quoted(table: TableId) -> sql.Identifier:
    return sql.Identifier(table.schema, table.name)
