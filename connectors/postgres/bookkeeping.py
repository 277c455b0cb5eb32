"""The follower's own tables of decisions and of what blocks it: made where they are missing, written and read."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources

import orjson
import psycopg
import structlog
from psycopg.types.json import Jsonb

from cdc.events.position import Position, TransactionName
from cdc.events.table import TableId, TableSchema
from cdc.ports import Decision
from cdc.protocol.lsn import Lsn
from connectors.postgres.read_only import make_read_only

log = structlog.get_logger(__name__)

SKIP = "skip"
OVERWRITE = "overwrite"
COPY = "copy"

_INSERT = """
    INSERT INTO cdc.decision (log, action, reason, os_user, epoch, commit_lsn, tables, events, file)
    VALUES (%s, %s, %s, %s, %s, %s::pg_lsn, %s, %s, %s) RETURNING id
"""
_DECISIONS = """
    SELECT action, reason, os_user, epoch, commit_lsn::text, tables, events, file,
           at::timestamptz(0)::text, role FROM cdc.decision WHERE log = %s
"""


def follower_sql() -> str:
    return resources.files("connectors.postgres").joinpath("sql/follower.sql").read_text("utf-8")


def complete_bookkeeping(connection: psycopg.Connection, node: str) -> bool:
    """A follower that an older version bootstrapped lacks tables. False when decisions cannot be kept here, because our
    role may not make them."""
    if _is_complete(connection):
        return True
    try:
        with connection.transaction():
            connection.execute(follower_sql())
            make_read_only(connection, [TableId("cdc", name) for name in ("decision", "blocked", "epoch_end")])
    except psycopg.errors.InsufficientPrivilege:
        log.warning("bookkeeping tables are missing and our role may not make them: run sql/follower.sql", node=node)
        return has_decisions(connection)
    return True


def _is_complete(connection: psycopg.Connection) -> bool:
    """Whether all is there that came after the first version."""
    query = """
        SELECT to_regprocedure('cdc.wait_for(pg_lsn, interval)') IS NOT NULL
           AND NOT EXISTS (SELECT FROM unnest(ARRAY['decision', 'blocked', 'epoch_end', 'copied_ahead']) name
                           WHERE to_regclass('cdc.' || name) IS NULL)
        """
    return connection.execute(query).fetchone() == (True,)


def has_decisions(connection: psycopg.Connection) -> bool:
    return connection.execute("SELECT to_regclass('cdc.decision') IS NOT NULL").fetchone() == (True,)


def keep_epoch_ends(connection: psycopg.Connection, log_name: str, ends: Iterable[Position]) -> None:
    """Of each epoch that is over its newest transaction; nothing where an older version made this follower and our role
    may not complete it."""
    may = "SELECT coalesce(has_table_privilege(to_regclass('cdc.epoch_end')::oid, 'INSERT'), false)"
    if connection.execute(may).fetchone() != (True,):
        return
    for end in ends:
        connection.execute(
            "INSERT INTO cdc.epoch_end (log, epoch, end_lsn) VALUES (%s, %s, %s::pg_lsn) ON CONFLICT DO NOTHING",
            (log_name, end.epoch, str(end.end_lsn)),
        )


def keep_shapes(connection: psycopg.Connection, log_name: str, schemas: Iterable[TableSchema]) -> None:
    """What the log describes, and what it would have at the first copy."""
    for schema in schemas:
        connection.execute(
            "INSERT INTO cdc.relation VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
            (log_name, schema.fingerprint, Jsonb(schema.to_json(), dumps=orjson.dumps)),
        )


def insert_decision(connection: psycopg.Connection, log_name: str, decision: Decision) -> int:
    """Its id."""
    row = connection.execute(
        _INSERT,
        (
            log_name,
            decision.action,
            decision.reason,
            decision.by,
            decision.position.epoch,
            str(decision.position.commit_lsn),
            list(decision.tables),
            decision.events,
            decision.file,
        ),
    ).fetchone()
    return int(row[0]) if row else 0


def read_decisions(connection: psycopg.Connection, log_name: str, limit: int) -> list[Decision]:
    """The newest first."""
    rows = connection.execute(_DECISIONS + " ORDER BY id DESC LIMIT %s", (log_name, limit)).fetchall()
    return [_decision(row) for row in rows]


def skip_at(connection: psycopg.Connection, log_name: str, name: TransactionName) -> Decision | None:
    """The decision that left this transaction out."""
    row = connection.execute(
        _DECISIONS + " AND action = %s AND epoch = %s AND commit_lsn = %s::pg_lsn",
        (log_name, SKIP, name.epoch, str(name.commit_lsn)),
    ).fetchone()
    return _decision(row) if row else None


def diverged_since(connection: psycopg.Connection, log_name: str) -> str | None:
    """When the first transaction was left out since the follower, or each of its tables, was copied; None when it has
    them all."""
    if not has_decisions(connection):
        return None
    row = connection.execute(
        "SELECT min(d.at)::timestamptz(0)::text FROM cdc.decision d LEFT JOIN cdc.bootstrap b USING (log) "
        "WHERE log = %s AND action = %s AND d.at >= coalesce(b.finished_at, '-infinity') AND (tables = '{}' "
        "OR NOT tables <@ ARRAY(SELECT unnest(c.tables) FROM cdc.decision c "
        "WHERE c.log = d.log AND c.action = %s AND c.id > d.id))",
        (log_name, SKIP, COPY),
    ).fetchone()
    return row[0] if row else None


def _decision(row: tuple[object, ...]) -> Decision:
    action, reason, by, epoch, lsn, tables, events, file, at, role = row
    name = TransactionName(int(str(epoch)), Lsn.parse(str(lsn)))
    names = tuple(map(str, tables)) if isinstance(tables, list) else ()
    told = None if file is None else str(file)
    return Decision(str(action), str(reason), str(by), name, names, int(str(events)), told, str(at), str(role))
