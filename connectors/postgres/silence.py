"""A server that keeps a connection and says nothing: what it does meanwhile is asked over another one.

A COPY or an index may take hours without a byte, so silence alone proves nothing
(`ops/decisions/0010-silence-is-asked-after.md`).
"""

from __future__ import annotations

import psycopg
import structlog

from connectors.postgres.connection import WatchedConnection, connect, open_connection

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 5.0
_LOOK = """
SELECT a.wait_event_type = 'Client',
       (SELECT string_agg(format('%%s (pid %%s%%s)', coalesce(nullif(b.application_name, ''), 'a session'),
                                 b.pid, ', in a transaction since ' || b.xact_start::timestamptz(0)), ', ')
        FROM pg_stat_activity b WHERE b.pid = ANY (pg_blocking_pids(a.pid)))
FROM pg_stat_activity a WHERE a.pid = %(pid)s AND a.application_name = %(name)s
"""
"""Whether our backend waits for us while we wait for it, and who holds what it waits for."""


class SilenceWatch:
    """For `WatchedConnection.on_silence`. Raises psycopg.OperationalError when the connection is of no use any more."""

    def __init__(self, dsn: str, connection: WatchedConnection, node: str) -> None:
        self._dsn = dsn
        self._node = node
        self._pid = connection.info.backend_pid
        self._name = connection.info.parameter_status("application_name") or ""
        self._every = connection.silence_seconds
        self._doubts = 0

    def __call__(self, seconds: float) -> None:
        if seconds < 2 * self._every:
            self._doubts = 0
        try:
            with open_connection(self._dsn, f"cdc watch {self._node}", _LOOK_SECONDS) as connection:
                row = connection.execute(_LOOK, {"pid": self._pid, "name": self._name}).fetchone()
        except psycopg.Error as error:
            if "FATAL" in str(error):  # it answers; why it takes no other connection is not our concern here
                return
            self._doubt("the server does not answer", seconds)
            return
        if row is None:
            raise psycopg.OperationalError("the server has ended the session")
        waits_for_us, blockers = row
        if waits_for_us:
            self._doubt("what was sent does not arrive", seconds)
            return
        self._doubts = 0
        if blockers:
            log.warning("waits for a lock", node=self._node, held_by=blockers, seconds=round(seconds))

    def _doubt(self, what: str, seconds: float) -> None:
        """Once may be chance."""
        log.warning(what, node=self._node, seconds=round(seconds))
        self._doubts += 1
        if self._doubts > 1:
            raise psycopg.OperationalError(f"{what} for {seconds:.0f} s")


def connect_watched(dsn: str, application_name: str, where: str) -> WatchedConnection:
    """Like `connect`; a call that waits for a server which is gone, or does not hear us, fails within a minute."""
    connection = connect(dsn, application_name, where)
    connection.on_silence = SilenceWatch(dsn, connection, where)
    return connection


def must_answer(dsn: str, node: str) -> None:
    """Raises psycopg.Error when the server takes no connection, or does not answer in it."""
    with open_connection(dsn, f"cdc watch {node}", _LOOK_SECONDS) as connection:
        connection.execute("SELECT 1")
