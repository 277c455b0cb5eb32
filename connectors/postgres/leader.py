"""The leader through SQL: what capture asks of it, and what `cdc init` makes there."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

import psycopg

from cdc.capture_ports import CandidateTable, LeaderFacts, LeaderIdentity, LeaderLook, SlotFacts, SystemFacts
from cdc.errors import RetryableError
from cdc.events.table import TableId
from cdc.promotion_ports import STALE
from cdc.protocol.lsn import Lsn
from connectors.postgres import identity as identities
from connectors.postgres import publication as publications
from connectors.postgres import sequences, slots
from connectors.postgres.connection import connect, translated
from connectors.postgres.replication import ReplicationStream
from connectors.postgres.silence import connect_watched

_FACTS = """
    SELECT current_database(), current_setting('server_version_num')::int, current_setting('wal_level'),
           pg_is_in_recovery(), current_setting('server_encoding'),
           current_setting('max_replication_slots')::int - (SELECT count(*)::int FROM pg_replication_slots),
           current_setting('max_wal_senders')::int
               - (SELECT count(*)::int FROM pg_stat_activity WHERE backend_type = 'walsender'),
           (SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user),
           has_database_privilege(current_database(), 'CREATE'), current_user::text
"""
_LAST_BUILT_IN_OID = 16383


class Leader:
    """One SQL connection to the leader. Not thread-safe; `close` it, or leave the `with`."""

    def __init__(self, dsn: str, application_name: str, where: str, answer_seconds: float | None = None) -> None:
        """Connects. Raises CheckError when the server refuses us, RetryableError when it is not there, and
        whenever it does not answer: in `answer_seconds`, or, where it may have to wait, while it does nothing."""
        self._dsn = dsn
        self._application_name = application_name
        self._where = where
        if answer_seconds is None:
            self._conn = connect_watched(dsn, application_name, where)
        else:
            self._conn = connect(dsn, application_name, where, answer_seconds=answer_seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def database(self) -> str:
        return self._conn.info.dbname

    def check_primary(self) -> None:
        with translated(self._where):
            recovery = self._conn.execute("SELECT pg_catalog.pg_is_in_recovery()").fetchone()
        if recovery == (True,):
            raise RetryableError(
                "this server is a standby",
                "make the dsn lead to its primary (target_session_attrs=read-write)",
                self._where,
            )

    def identity(self, group: str) -> LeaderIdentity | None:
        return identities.load_identity(self._conn, group, self._where)

    def slot(self, name: str) -> SlotFacts | None:
        return slots.slot_facts(self._conn, name, self._where)

    def look(self, group: str, slot: str) -> LeaderLook:
        return identities.look(self._conn, group, slot, self._where)

    def wal_lsn(self) -> Lsn:
        with translated(self._where):
            row = self._conn.execute("SELECT pg_catalog.pg_current_wal_flush_lsn()::text").fetchone()
        return Lsn.parse(row[0] if row else "")

    def type_names(self) -> dict[int, str]:
        """Schema-qualified names of the built-in types; the stream names only the others."""
        with translated(self._where):
            rows = self._conn.execute(
                "SELECT t.oid::bigint, n.nspname || '.' || t.typname FROM pg_catalog.pg_type t "
                "JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace WHERE t.oid <= %s",
                (_LAST_BUILT_IN_OID,),
            ).fetchall()
        return dict(rows)

    def fenced(self, log: str) -> bool:
        with translated(self._where):
            if self._conn.execute("SELECT pg_catalog.to_regclass('cdc.fence')").fetchone() == (None,):
                return False
            query = "SELECT FROM cdc.fence WHERE log = %s AND promotion <> %s"
            return self._conn.execute(query, (log, STALE)).fetchone() is not None

    def sequences(self) -> dict[TableId, int]:
        with translated(self._where):
            self._conn.execute("SET lock_timeout = '500ms'")
            with suppress(psycopg.errors.LockNotAvailable):
                return sequences.last_values(self._conn)
        return {}

    def emit_message(self, prefix: str, content: bytes) -> Lsn:
        query = "SELECT pg_catalog.pg_logical_emit_message(true, %s, %s::bytea)::text"
        with translated(self._where):
            row = self._conn.execute(query, (prefix, content)).fetchone()
        return Lsn.parse(row[0] if row else "")

    def facts(self) -> LeaderFacts:
        return leader_facts(self._conn, self._where)

    def system(self) -> SystemFacts:
        """Asked over a replication connection of its own, so it fails where capture would."""
        with ReplicationStream(self._dsn, self._application_name, self._where) as stream:
            return stream.identify()

    def candidates(self, patterns: Sequence[str]) -> list[CandidateTable]:
        return publications.candidates(self._conn, patterns, self._where)

    def published(self, publication: str) -> set[TableId] | None:
        return publications.published_tables(self._conn, publication, self._where)

    def publish(self, publication: str, tables: Sequence[TableId]) -> dict[TableId, bool]:
        with translated(self._where), self._conn.transaction():
            joined = publications.publish(self._conn, publication, tables, self._where)
            identities.forget_publication(self._conn, publication)
        return joined

    def remember(self, group: str, slot: str) -> None:
        identities.remember(self._conn, group, slot, self._where)

    def store_identity(self, identity: LeaderIdentity) -> None:
        identities.store_identity(self._conn, identity, self._where)

    def create_slot(self, name: str) -> None:
        slots.create_slot(self._conn, name, self._where)

    def close(self) -> None:
        self._conn.close()


def leader_facts(connection: psycopg.Connection, where: str) -> LeaderFacts:
    """What must hold before a node can lead."""
    with translated(where):
        row = connection.execute(_FACTS).fetchone()
    if row is None:
        raise AssertionError("a SELECT without FROM has a row")
    database, version, wal_level, recovery, encoding, free_slots, free_senders, replicate, create, role = row
    return LeaderFacts(
        database=database,
        version=version,
        wal_level=wal_level,
        in_recovery=recovery,
        free_slots=free_slots,
        free_wal_senders=free_senders,
        may_replicate=replicate,
        may_create=create,
        server_encoding=encoding,
        role=role,
    )
