"""Who does what on a node, one at a time: advisory locks of the session, gone with its connection."""

from __future__ import annotations

import psycopg

BOOTSTRAP = "cdc.bootstrap"
"""Of whoever copies rows to this follower."""

HOLDER = """
FROM pg_locks l JOIN pg_stat_activity a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (l.classid::bigint << 32 | l.objid::bigint) = hashtextextended(%s, 0)
"""
"""The session `a` that holds a lock, for a query that asks about it."""


def applier_of(log_name: str) -> str:
    return f"cdc.apply {log_name}"


def promotion_of(log_name: str) -> str:
    return f"cdc.promote {log_name}"


def try_lock(connection: psycopg.Connection, name: str) -> bool:
    """False when another session holds it. psycopg's errors as they are."""
    row = connection.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", (name,)).fetchone()
    return row == (True,)
