"""How far the leader and a follower are, in one query each, for whoever shows lag."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import psycopg

from cdc.errors import CheckError
from cdc.events.position import Position
from cdc.ports import LeaderProgress
from cdc.protocol.lsn import Lsn
from connectors.postgres.connection import translated

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


_LEADER = """
    SELECT pg_current_wal_insert_lsn()::text, clock_timestamp(), s.confirmed_flush_lsn::text, s.active,
           pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn)::bigint, s.wal_status, s.safe_wal_size,
           (SELECT setting::bigint * 1048576 FROM pg_settings
            WHERE name = 'max_slot_wal_keep_size' AND setting <> '-1'),
           CASE WHEN s.active THEN r.write_lsn ELSE s.confirmed_flush_lsn END::text
    FROM pg_replication_slots s LEFT JOIN pg_stat_replication r ON r.pid = s.active_pid
    WHERE s.slot_name = %s AND s.database = current_database()
"""


def leader_progress(connection: psycopg.Connection, slot: str, epoch: int, where: str) -> LeaderProgress | None:
    """`epoch` is that of the node's leadership. None when the slot is not here."""
    with translated(where):
        row = connection.execute(_LEADER, (slot,)).fetchone()
    if row is None:
        return None
    insert, now, confirmed, active, retained, wal_status, safe, keep, received = row
    return LeaderProgress(
        insert_lsn=Lsn.parse(insert),
        now_us=microseconds(now),
        confirmed_flush_lsn=Lsn.parse(confirmed),
        slot_active=bool(active),
        retained_bytes=int(retained or 0),
        wal_status=str(wal_status),
        safe_wal_bytes=safe,
        wal_keep_bytes=keep,
        received_lsn=Lsn.parse(received) if received else None,
        epoch=epoch,
    )


def follower_progress(connection: psycopg.Connection, log_name: str, where: str) -> Position:
    """Raises CheckError when the follower was never bootstrapped."""
    with translated(where):
        position = read_position(connection, log_name)
    if position is None:
        raise CheckError(f"this database holds no position in the log {log_name}",
                         f"run: cdc bootstrap --follower {where}", where)  # fmt: skip
    return position


def leads(connection: psycopg.Connection, log_name: str, node: str) -> bool:
    """Whether this node leads that log, or led it and has not rejoined as a follower. Raises CheckError when the
    database is that of another node which does."""
    row = connection.execute("SELECT to_regclass('cdc.identity'), to_regclass('cdc.position')").fetchone()
    identity, position = row or (None, None)
    if identity:
        query = "SELECT coalesce(to_jsonb(i) ->> 'node', '') FROM cdc.identity i WHERE topic = %s"
        led_by = connection.execute(query, (log_name,)).fetchone()
        if led_by and led_by[0] not in ("", node):
            raise CheckError(f"this database is that of {led_by[0]}", "correct the dsn of one of them", node)
        if led_by:
            return True
    query = "SELECT 1 FROM cdc.position WHERE log = %s AND leader = %s"
    return bool(position and connection.execute(query, (log_name, node)).fetchone())


def read_position(connection: psycopg.Connection, log_name: str) -> Position | None:
    """None without a position, or without the table for it."""
    try:
        row = connection.execute(
            "SELECT epoch, commit_lsn::text, end_lsn::text, committed_at, next_offset, leader FROM cdc.position "
            "WHERE log = %s",
            (log_name,),
        ).fetchone()
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        return None
    if row is None:
        return None
    return Position(row[0], Lsn.parse(row[1]), Lsn.parse(row[2]), microseconds(row[3]), row[4], row[5])


def microseconds(at: datetime) -> int:
    """Microseconds since 1970."""
    return (at - _EPOCH) // timedelta(microseconds=1)


def timestamp(microseconds_since_1970: int) -> datetime:
    """The reverse of `microseconds`."""
    return _EPOCH + timedelta(microseconds=microseconds_since_1970)
