"""What one node says of itself, for `cdc status`. Reads only."""

from __future__ import annotations

import psycopg

from cdc.errors import CheckError
from cdc.events.position import TransactionName
from cdc.ports import FollowerFacts, Leadership, LeaderState, NodeProgress
from cdc.protocol.lsn import Lsn
from connectors.postgres.bookkeeping import diverged_since, has_decisions, read_decisions
from connectors.postgres.connection import translated
from connectors.postgres.locks import HOLDER, applier_of
from connectors.postgres.progress import leader_progress, read_position

_SHOWN_DECISIONS = 5
_POSITION = """
    SELECT epoch, commit_lsn::text, applied_at::timestamptz(0)::text FROM cdc.position WHERE log = %s
"""
_APPLIER = f"""
    SELECT format('backend %%s from %%s since %%s', a.pid, coalesce(host(a.client_addr), 'a local socket'),
                  a.backend_start::timestamptz(0))
    {HOLDER}
"""  # noqa: S608 - a constant
_LEADERSHIP_TABLES = """
    SELECT to_regclass('cdc.identity') IS NOT NULL, to_regclass('cdc.fence') IS NOT NULL,
           to_regclass('cdc.promotion') IS NOT NULL
"""
_LEADERSHIP = (
    "SELECT epoch FROM cdc.identity WHERE topic = %s",
    "SELECT fenced_at FROM cdc.fence WHERE log = %s",
    "SELECT format('%%s, to epoch %%s, begun by %%s at %%s', promotion, epoch, started_by, started_at::timestamptz(0)) "
    "FROM cdc.promotion WHERE log = %s AND outcome IS NULL ORDER BY started_at DESC LIMIT 1",
)
_SLOT = """
    SELECT pg_current_wal_flush_lsn()::text, s.wal_status,
           format('%%s, backend %%s since %%s', a.application_name, a.pid, a.backend_start::timestamptz(0)), a.pid
    FROM pg_replication_slots s LEFT JOIN pg_stat_activity a ON a.pid = s.active_pid WHERE slot_name = %s
"""


def follower_facts(connection: psycopg.Connection, log_name: str, where: str) -> FollowerFacts:
    """Raises CheckError when this database was never bootstrapped."""
    with translated(where):
        known = connection.execute("SELECT to_regclass('cdc.position') IS NOT NULL").fetchone() == (True,)
        row = connection.execute(_POSITION, (log_name,)).fetchone() if known else None
        leads = leadership(connection, log_name)
        if row is None and leads.epoch is not None:
            return FollowerFacts(leads, "no position", "", None, None, None, None, ())
        if row is None:
            raise CheckError("this database holds no position in the log", f"cdc bootstrap --follower {where}", where)
        epoch, commit_lsn, applied_at = row
        applier = connection.execute(_APPLIER, (applier_of(log_name),)).fetchone()
        since = problem = None
        decided = has_decisions(connection)
        if decided:
            blocked = connection.execute(
                "SELECT since::timestamptz(0)::text, problem FROM cdc.blocked WHERE log = %s AND problem IS NOT NULL",
                (log_name,),
            ).fetchone()
            since, problem = blocked or (None, None)
        return FollowerFacts(
            leadership=leads,
            position=str(TransactionName(epoch, Lsn.parse(commit_lsn))),
            applied_at=applied_at,
            applier=applier[0] if applier else None,
            diverged_since=diverged_since(connection, log_name),
            blocked_since=since,
            blocked=problem,
            decisions=tuple(read_decisions(connection, log_name, _SHOWN_DECISIONS)) if decided else (),
        )


def node_progress(connection: psycopg.Connection, slot: str, log_name: str, where: str) -> NodeProgress:
    """Raises CheckError when this database is no part of the group yet."""
    facts = follower_facts(connection, log_name, where)
    epoch = facts.leadership.epoch
    leader = None if epoch is None else leader_progress(connection, slot, epoch, where)
    with translated(where):
        position = None if leader else read_position(connection, log_name)
    return NodeProgress(leader, position, facts)


def leadership(connection: psycopg.Connection, log_name: str) -> Leadership:
    """Errors leave as psycopg raises them."""
    row = connection.execute(_LEADERSHIP_TABLES).fetchone() or (False, False, False)
    epoch, closed, promotion = (
        connection.execute(query, (log_name,)).fetchone() if there else None
        for there, query in zip(row, _LEADERSHIP, strict=True)
    )
    return Leadership(epoch[0] if epoch else None, closed is not None, promotion[0] if promotion else None)


def leader_state(connection: psycopg.Connection, slot: str, log_name: str, where: str) -> LeaderState:
    """Raises CheckError when there is no such slot."""
    with translated(where):
        row = connection.execute(_SLOT, (slot,)).fetchone()
        leads = leadership(connection, log_name)
    if row is None:
        raise CheckError(f"replication slot {slot} does not exist", "start capture, it says what to do", where)
    wal_lsn, wal_status, reader, pid = row
    return LeaderState(leads, wal_lsn, f"{slot} {wal_status}", reader if pid else None)
