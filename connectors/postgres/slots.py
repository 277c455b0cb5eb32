"""Replication slots through SQL: facts, and the one that `cdc init` makes."""

from __future__ import annotations

import psycopg

from cdc.capture_ports import SlotFacts
from cdc.errors import RetryableError
from cdc.protocol.lsn import Lsn
from connectors.postgres.connection import translated
from connectors.postgres.errors import slot_error

PLUGIN = "pgoutput"
_WAIT_SECONDS = 60
"""A new slot waits for all transactions that are running."""


def slot_facts(conn: psycopg.Connection, name: str, where: str) -> SlotFacts | None:
    """None when there is no such slot."""
    with translated(where):
        row = conn.execute(_facts_query(conn), (name,)).fetchone()
    if row is None:
        return None
    (plugin, database, temporary, active_pid, active_for, confirmed, restart, wal_status, reason, safe, keep, heard,
     retained) = row  # fmt: skip
    return SlotFacts(
        plugin=plugin,
        database=database,
        temporary=temporary,
        active_pid=active_pid,
        active_for=active_for,
        confirmed_flush_lsn=_lsn(confirmed),
        restart_lsn=_lsn(restart),
        wal_status=wal_status,
        invalidation=reason or ("wal_removed" if wal_status == "lost" else None),
        safe_wal_bytes=safe,
        wal_keep_bytes=keep,
        heard_of=heard,
        retained_bytes=retained,
    )


def create_slot(conn: psycopg.Connection, name: str, where: str) -> None:
    """A permanent logical slot. Raises RetryableError when running transactions do not end in time.

    `conn` must be in autocommit: a transaction that has written cannot make a slot.
    """
    try:
        with translated(where):
            conn.execute(f"SET statement_timeout = '{_WAIT_SECONDS}s'")
        conn.execute("SELECT pg_create_logical_replication_slot(%s, %s)", (name, PLUGIN))
    except psycopg.errors.QueryCanceled as error:
        raise RetryableError(
            f"slot {name} could not be made in {_WAIT_SECONDS} s: it waits for transactions that are running",
            "end transactions that stay open (pg_stat_activity, pg_prepared_xacts), then repeat",
            where,
        ) from error
    except psycopg.Error as error:
        raise slot_error(error, where, name) from error
    finally:
        if not conn.closed:
            conn.execute("RESET statement_timeout")


def _facts_query(conn: psycopg.Connection) -> str:
    reason = "s.invalidation_reason" if conn.info.server_version >= 170000 else "NULL::text"
    return f"""
        SELECT s.plugin, s.database, s.temporary, s.active_pid,
               a.application_name || coalesce(' from ' || host(a.client_addr), ''),
               s.confirmed_flush_lsn::text, s.restart_lsn::text, s.wal_status, {reason},
               s.safe_wal_size, (SELECT setting::bigint * 1048576 FROM pg_catalog.pg_settings
                                 WHERE name = 'max_slot_wal_keep_size' AND setting <> '-1'), r.reply_time::text,
               CASE WHEN NOT pg_is_in_recovery()
                    THEN pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn)::bigint END
        FROM pg_catalog.pg_replication_slots s
        LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = s.active_pid
        LEFT JOIN pg_catalog.pg_stat_replication r ON r.pid = s.active_pid
        WHERE s.slot_name = %s
    """  # noqa: S608 - `reason` is one of the two names above


def _lsn(text: str | None) -> Lsn:
    return Lsn.parse(text) if text else Lsn(0)
