"""The triggers that make a follower's tables refuse writes of everybody but the applier.

A statement's trigger belongs to the table that the statement names, so the parents of a table need one too: a
write to a parent reaches the rows of its children.
"""

from __future__ import annotations

from collections.abc import Iterable

import psycopg
import structlog
from psycopg import sql

from cdc.events.table import TableId

log = structlog.get_logger(__name__)

_TABLES = (
    "position", "relation", "bootstrap", "bootstrap_part", "copied_ahead", "sequence", "fence", "promotion", "decision",
    "blocked", "epoch_end",
)  # fmt: skip
BOOKKEEPING = tuple(TableId("cdc", name) for name in _TABLES)
"""Roles with pg_write_all_data could write these otherwise."""
_UNPROTECTED = """
WITH RECURSIVE tree (oid) AS (
    SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
    JOIN unnest(%s::text[], %s::text[]) AS p (schemaname, tablename) ON nspname = schemaname AND relname = tablename
    UNION SELECT inhparent FROM pg_inherits JOIN tree ON inhrelid = tree.oid
)
SELECT nspname, relname, has_table_privilege(c.oid, 'TRIGGER')
FROM tree JOIN pg_class c USING (oid) JOIN pg_namespace n ON n.oid = relnamespace
WHERE relkind IN ('r', 'p')
  AND NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = c.oid AND tgname = 'cdc_read_only' AND tgenabled <> 'D')
"""
_CREATE = (
    "CREATE OR REPLACE TRIGGER cdc_read_only BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON {} "
    "FOR EACH STATEMENT EXECUTE FUNCTION cdc.refuse_write()"
)


def make_read_only(connection: psycopg.Connection, tables: Iterable[TableId]) -> None:
    """Every one of `tables` and of their parents that is not read-only yet. Errors leave as psycopg raises them."""
    for schema, name, permitted in _open_tables(connection, tables):
        if permitted:
            connection.execute(sql.SQL(_CREATE).format(sql.Identifier(schema, name)))
        else:
            log.warning("a table stays open to writes: our role may not make a trigger on it", table=f"{schema}.{name}")


def read_only_by_default(connection: psycopg.Connection, *, on: bool) -> None:
    """What every later session of the database begins with."""
    database = sql.Identifier(connection.info.dbname)
    if on:
        connection.execute(sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(database))
    else:
        connection.execute(sql.SQL("ALTER DATABASE {} RESET default_transaction_read_only").format(database))


def unprotected(connection: psycopg.Connection, tables: Iterable[TableId]) -> list[TableId]:
    """Those of `tables` and of their parents that take writes."""
    return [TableId(schema, name) for schema, name, _ in _open_tables(connection, tables)]


def _open_tables(connection: psycopg.Connection, tables: Iterable[TableId]) -> list[tuple[str, str, bool]]:
    names = list(tables)
    return connection.execute(_UNPROTECTED, ([t.schema for t in names], [t.name for t in names])).fetchall()
