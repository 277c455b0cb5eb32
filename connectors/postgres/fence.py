"""Closing a leader for writes, provably, and opening a node for them.

The lock of CREATE TRIGGER conflicts with the lock of a writer, so it waits for every transaction that has written
the table; once it is there, nobody writes the table any more (manual, 13.3.1 and CREATE TRIGGER). Table by table, each
in a transaction of its own: writers of other tables do not wait for each other and for us in a circle.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import psycopg
from psycopg import sql

from cdc.errors import CheckError
from cdc.events.table import TableId
from connectors.postgres.read_only import make_read_only, read_only_by_default, unprotected

_WRITERS = """
SELECT l.pid, a.usename, a.application_name FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)
WHERE l.locktype = 'relation' AND l.relation = %s::regclass AND l.granted
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND l.pid IS DISTINCT FROM pg_backend_pid() AND l.mode IN
      ('RowExclusiveLock', 'ShareUpdateExclusiveLock', 'ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock',
       'AccessExclusiveLock')
"""
_GUARDED = """
SELECT nspname, relname FROM pg_trigger JOIN pg_class c ON c.oid = tgrelid JOIN pg_namespace n ON n.oid = relnamespace
WHERE tgname = 'cdc_read_only' AND tgenabled <> 'D' AND nspname <> 'cdc' ORDER BY 1, 2
"""
_SHORT_WAIT_MS = 200
_PATIENCE_SECONDS = 15.0
"""How long after their end the locks of terminated sessions are waited for."""


def close_for_writes(
    connection: psycopg.Connection, tables: Sequence[TableId], grace_seconds: float, where: str
) -> None:
    """Every one of `tables` refuses writes when this returns. New sessions are read-only: clients look elsewhere.

    Raises CheckError when a table cannot be closed; psycopg's errors pass.
    """
    read_only_by_default(connection, on=True)
    deadline = time.monotonic() + grace_seconds
    for table in tables:
        _close(connection, table, deadline, where)
    still_open = unprotected(connection, tables)
    if still_open:
        raise CheckError(
            f"not closed for writes: {', '.join(map(str, still_open[:5]))}",
            "the role of the dsn must own the tables, or hold TRIGGER on them",
            where,
        )


def open_for_writes(connection: psycopg.Connection) -> None:
    """To be called inside the transaction that decides it. Disabling a trigger does not wait for those who read."""
    for schema, name in connection.execute(_GUARDED).fetchall():
        connection.execute(sql.SQL("ALTER TABLE {} DISABLE TRIGGER cdc_read_only").format(sql.Identifier(schema, name)))
    read_only_by_default(connection, on=False)


def _close(connection: psycopg.Connection, table: TableId, deadline: float, where: str) -> None:
    """Wait for the writers of one table until `deadline`, then end them."""
    give_up = max(deadline, time.monotonic()) + _PATIENCE_SECONDS
    while True:
        left = deadline - time.monotonic()
        connection.execute(
            "SELECT set_config('lock_timeout', %s, false)", (f"{max(_SHORT_WAIT_MS, left * 1000):.0f}ms",)
        )
        try:
            make_read_only(connection, [table])
            return
        except psycopg.errors.LockNotAvailable:
            if time.monotonic() > give_up:
                raise CheckError(
                    f"table {table} is locked and the sessions that hold it do not end",
                    "end them (pg_locks, pg_prepared_xacts), then repeat",
                    where,
                ) from None
            if time.monotonic() >= deadline:
                _end_writers(connection, table, where)
        finally:
            connection.execute("SET lock_timeout = 0")


def _end_writers(connection: psycopg.Connection, table: TableId, where: str) -> None:
    name = sql.Identifier(*table).as_string(None)
    for pid, user, application in connection.execute(_WRITERS, (name,)).fetchall():
        if pid is None:
            raise CheckError(
                f"a prepared transaction holds table {table}",
                "COMMIT PREPARED or ROLLBACK PREPARED it (pg_prepared_xacts), then repeat",
                where,
            )
        try:
            connection.execute("SELECT pg_terminate_backend(%s)", (pid,))
        except psycopg.errors.InsufficientPrivilege as error:
            raise CheckError(
                f"a transaction of {user} ({application}, pid {pid}) holds table {table}",
                "end it, or grant pg_signal_backend to the role of the dsn, then repeat",
                where,
            ) from error
