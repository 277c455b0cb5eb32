"""A node in the hands of a promotion: one connection, which holds the lock that only one promotion can have."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import resources
from typing import Any

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from cdc.capture_ports import CandidateTable, LeaderFacts, LeaderIdentity
from cdc.errors import CheckError, FencedError
from cdc.events.position import Position
from cdc.events.table import TableId
from cdc.log.sequences import SEQUENCES_PREFIX, sequences_message
from cdc.promotion_ports import Fence, NodeState, PromotionRecord
from cdc.protocol.lsn import Lsn
from connectors.postgres import fence, sequences, slots
from connectors.postgres import publication as publications
from connectors.postgres.bookkeeping import diverged_since
from connectors.postgres.connection import open_connection, translated
from connectors.postgres.identity import load_identity, store_identity
from connectors.postgres.leader import leader_facts
from connectors.postgres.locks import HOLDER, applier_of, promotion_of, try_lock
from connectors.postgres.progress import follower_progress, read_position, timestamp
from connectors.postgres.read_only import BOOKKEEPING, make_read_only

_CONNECT_SECONDS = "3"
"""A dead leader must not take much of the time in which nobody can write."""
_ANSWER_SECONDS = 10.0
"""A node that takes connections and does not answer is as good as dead."""
_LONG_SECONDS = 3600.0
"""For statements that wait for transactions to end, or read whole tables."""
_RELEASE_SECONDS = 10.0

_HOLDER = f"""
SELECT coalesce(nullif(a.application_name, ''), 'somebody'), a.backend_start::timestamptz(0)::text, a.pid
{HOLDER}
"""
_APPLICATIONS = """
SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'
  AND pid <> pg_backend_pid() AND application_name NOT LIKE 'cdc %'
"""
_PROMOTION = """
SELECT promotion, epoch, old_leader, coalesce(report ->> 'mode', mode), started_by,
       extract(epoch FROM started_at)::float8, outcome, report
FROM cdc.promotion WHERE log = %s ORDER BY started_at DESC LIMIT 1
"""


class PostgresNode:
    """Implements `cdc.promotion_ports.PromotionNode`. `log_name` is the topic, `group` names the leader's identity,
    `slot` is the one that capture streams from."""

    def __init__(self, dsn: str, name: str, group: str, log_name: str, slot: str) -> None:
        """Connects. Raises CheckError when the server refuses us, RetryableError when it is not there."""
        self.name = name
        self._dsn = dsn
        self._group = group
        self._log = log_name
        self._slot = slot
        with translated(name):
            self._conn = open_connection(dsn, "cdc promote", _ANSWER_SECONDS, connect_timeout=_CONNECT_SECONDS)
            # What a step has done must outlive a crash, also the changes before it that the applier did not wait for.
            self._conn.execute("SET session_replication_role = replica; SET synchronous_commit = local")

    def close(self) -> None:
        self._conn.close()

    @contextmanager
    def _patience(self) -> Iterator[None]:
        self._conn.silence_seconds = _LONG_SECONDS
        try:
            yield
        finally:
            self._conn.silence_seconds = _ANSWER_SECONDS

    def take_lock(self, who: str) -> None:
        with translated(self.name):
            self._conn.execute("SELECT set_config('application_name', %s, false)", (f"cdc promote by {who}"[:63],))
            key = promotion_of(self._log)
            if try_lock(self._conn, key):
                return
            holder = self._conn.execute(_HOLDER, (key,)).fetchone() or ("somebody", "a moment ago", "unknown")
        raise FencedError(
            f"{holder[0]} is at it since {holder[1]} (backend {holder[2]})",
            "let it end; if it hangs, end that backend and run the same command again",
            self.name,
        )

    def state(self) -> NodeState:
        with translated(self.name):
            known = self._conn.execute("SELECT to_regclass('cdc.fence'), to_regclass('cdc.promotion')").fetchone()
            position = read_position(self._conn, self._log)
            diverged = diverged_since(self._conn, self._log)
            fenced = promoted = None
            if known and known[0]:
                fenced = self._conn.execute(
                    "SELECT promotion, fence_lsn::text FROM cdc.fence WHERE log = %s", (self._log,)
                ).fetchone()
            if known and known[1]:
                promoted = self._conn.execute(_PROMOTION, (self._log,)).fetchone()
            applier_runs = self._conn.execute(_HOLDER, (applier_of(self._log),)).fetchone() is not None
            slot_active = self._conn.execute(
                "SELECT FROM pg_replication_slots WHERE slot_name = %s AND active AND database = current_database()",
                (self._slot,),
            ).fetchone()
        return NodeState(
            identity=load_identity(self._conn, self._group, self.name),
            position=position,
            applier_runs=applier_runs,
            slot_active=slot_active is not None,
            fence=Fence(fenced[0], Lsn.parse(fenced[1]) if fenced[1] else None) if fenced else None,
            promotion=PromotionRecord(*promoted) if promoted else None,
            diverged_since=diverged,
        )

    def leader_facts(self) -> LeaderFacts:
        return leader_facts(self._conn, self.name)

    def candidates(self, patterns: Sequence[str]) -> Sequence[CandidateTable]:
        return publications.candidates(self._conn, patterns, self.name)

    def foreign_slot(self, name: str) -> str | None:
        with translated(self.name):
            row = self._conn.execute(
                "SELECT coalesce(database, 'none') FROM pg_replication_slots "
                "WHERE slot_name = %s AND database IS DISTINCT FROM current_database()",
                (name,),
            ).fetchone()
        return row[0] if row else None

    def position(self) -> Position:
        return follower_progress(self._conn, self._log, self.name)

    def wal_lsn(self) -> Lsn:
        with translated(self.name):
            row = self._conn.execute("SELECT pg_current_wal_flush_lsn()::text").fetchone()
        return Lsn.parse(row[0] if row else "")

    # the record of the promotion

    def begin(self, record: PromotionRecord) -> None:
        with translated(self.name):
            self._conn.execute(
                "INSERT INTO cdc.promotion (promotion, log, epoch, old_leader, mode, started_by, report) "
                "VALUES (%s, %s, %s, %s, %s, %s, %s)",
                (record.promotion, self._log, record.epoch, record.old_leader, record.mode, record.started_by,
                 Jsonb(record.report)),
            )  # fmt: skip

    def note(self, promotion: str, facts: dict[str, Any]) -> None:
        with translated(self.name):
            self._conn.execute(
                "UPDATE cdc.promotion SET report = report || %s WHERE promotion = %s", (Jsonb(facts), promotion)
            )

    def end(self, promotion: str, outcome: str) -> None:
        with translated(self.name):
            self._conn.execute(
                "UPDATE cdc.promotion SET outcome = %s, ended_at = clock_timestamp() WHERE promotion = %s",
                (outcome, promotion),
            )

    # the old leader

    def fence(self, promotion: str, tables: Sequence[TableId], grace_seconds: float) -> Lsn:
        with translated(self.name), self._patience():
            self._prepare_bookkeeping()
            self._conn.execute(
                "INSERT INTO cdc.fence (log, promotion) VALUES (%s, %s) ON CONFLICT (log) DO UPDATE "
                "SET promotion = excluded.promotion, fenced_at = clock_timestamp(), fence_lsn = NULL",
                (self._log, promotion),
            )
            fence.close_for_writes(self._conn, tables, grace_seconds, self.name)
            # Published behind the last write of all: once it is in the log, so is everything before it.
            row = self._conn.execute(
                "SELECT pg_logical_emit_message(true, 'cdc.fence', convert_to(%s, 'UTF8'))::text", (promotion,)
            ).fetchone()
            fence_lsn = Lsn.parse(row[0] if row else "")
            self._conn.execute(
                "UPDATE cdc.fence SET fence_lsn = %s::pg_lsn WHERE log = %s", (str(fence_lsn), self._log)
            )
        return fence_lsn

    def unfence(self, promotion: str) -> None:
        with translated(self.name), self._conn.transaction():
            fence.open_for_writes(self._conn)
            self._conn.execute("DELETE FROM cdc.fence WHERE log = %s AND promotion = %s", (self._log, promotion))

    def published(self, publication: str) -> Sequence[TableId]:
        return sorted(publications.published_tables(self._conn, publication, self.name) or ())

    def sequences(self) -> dict[TableId, int]:
        with translated(self.name):
            return sequences.last_values(self._conn)

    def follow(self, position: Position, slot: str, repair: Callable[[psycopg.Connection], int] = lambda _: 0) -> int:
        """`repair` runs in the same transaction, which then says what it says."""
        with translated(self.name), self._patience():
            tables = self.published(slot)
            with self._conn.transaction():
                self._prepare_bookkeeping()
                rows = repair(self._conn)
                self._conn.execute(
                    "INSERT INTO cdc.position (log, epoch, commit_lsn, end_lsn, committed_at, next_offset, leader) "
                    "VALUES (%s, %s, %s::pg_lsn, %s::pg_lsn, %s, %s, %s) ON CONFLICT (log) DO UPDATE SET "
                    "epoch = excluded.epoch, commit_lsn = excluded.commit_lsn, end_lsn = excluded.end_lsn, "
                    "committed_at = excluded.committed_at, next_offset = excluded.next_offset, "
                    "leader = excluded.leader, applied_at = clock_timestamp()",
                    (self._log, position.epoch, str(position.commit_lsn), str(position.end_lsn),
                     timestamp(position.committed_at_us), position.next_offset, position.leader),
                )  # fmt: skip
                self._conn.execute(
                    "INSERT INTO cdc.bootstrap (log, finished_at) VALUES (%s, clock_timestamp()) "
                    "ON CONFLICT (log) DO UPDATE SET finished_at = excluded.finished_at",
                    (self._log,),
                )
                make_read_only(self._conn, [*tables, *BOOKKEEPING])
                if load_identity(self._conn, self._group, self.name) is not None:
                    self._conn.execute("DELETE FROM cdc.identity WHERE group_name = %s", (self._group,))
                self._conn.execute("DELETE FROM cdc.fence WHERE log = %s", (self._log,))
                self._conn.execute(sql.SQL("DROP PUBLICATION IF EXISTS {}").format(sql.Identifier(slot)))
        self.drop_slot(slot)
        self._end_sessions()
        return rows

    def _end_sessions(self) -> None:
        """Those of applications began when this node took writes, and a pool would go on offering them for that."""
        with translated(self.name):
            for (pid,) in self._conn.execute(_APPLICATIONS).fetchall():
                with suppress(psycopg.errors.InsufficientPrivilege):
                    self._conn.execute("SELECT pg_terminate_backend(%s)", (pid,))

    def _prepare_bookkeeping(self) -> None:
        self._conn.execute(resources.files("connectors.postgres").joinpath("sql/follower.sql").read_text("utf-8"))

    # the new leader

    def set_sequences(self, values: dict[TableId, int]) -> int:
        with translated(self.name), self._patience():
            return sequences.set_at_least(self._conn, values, 0)

    def advance_sequences(self, margin: int) -> int:
        with translated(self.name), self._patience():
            rows = self._conn.execute(
                "SELECT schema_name, sequence_name, last_value FROM cdc.sequence WHERE log = %s", (self._log,)
            ).fetchall()
            told = {TableId(schema, name): value for schema, name, value in rows}
            return sequences.set_at_least(self._conn, told, margin)

    def keep_sequences(self, values: dict[TableId, int]) -> None:
        sequences.keep(self._conn, self._log, values)

    def publish(self, publication: str, patterns: Sequence[str]) -> int:
        tables = [candidate.table for candidate in self.candidates(patterns)]
        if not tables:
            raise CheckError(f"no table matches {', '.join(patterns)}", "correct capture.tables", self.name)
        publications.publish(self._conn, publication, tables, self.name)
        return len(tables)

    def make_slot(self, name: str) -> Lsn:
        self.drop_slot(name)
        with self._patience():
            slots.create_slot(self._conn, name, self.name)
        made = slots.slot_facts(self._conn, name, self.name)
        if made is None:
            raise CheckError(f"slot {name} was made and is gone", "repeat the command", self.name)
        return made.confirmed_flush_lsn

    def release_slot(self, name: str) -> None:
        with translated(self.name):
            self._conn.execute(
                "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots "
                "WHERE slot_name = %s AND active_pid IS NOT NULL AND database = current_database()",
                (name,),
            )

    def drop_slot(self, name: str) -> None:
        """With whoever streams from it, who has no business there any more."""
        deadline = time.monotonic() + _RELEASE_SECONDS
        while True:
            self.release_slot(name)
            with translated(self.name):
                try:
                    self._conn.execute(
                        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots "
                        "WHERE slot_name = %s AND database = current_database()",
                        (name,),
                    )
                    return
                except psycopg.errors.ObjectInUse:
                    if time.monotonic() > deadline:
                        raise
            time.sleep(0.05)

    def lead(self, identity: LeaderIdentity, promotion: str) -> None:
        with translated(self.name), self._patience(), self._conn.transaction():
            row = self._conn.execute(
                "SELECT FROM cdc.position WHERE log = %s AND epoch = %s AND leader = %s FOR UPDATE",
                (self._log, identity.epoch, self.name),
            ).fetchone()
            if row is None:
                raise FencedError(
                    f"this node is not in epoch {identity.epoch}, which it was to lead",
                    "see cdc status: another promotion may have overtaken this one",
                    self.name,
                )
            store_identity(self._conn, identity, self.name)
            # Before any write that uses them: a failover may follow before capture's heartbeat tells them.
            content = sequences_message(sequences.last_values(self._conn))
            self._conn.execute("SELECT pg_logical_emit_message(true, %s, %s::bytea)", (SEQUENCES_PREFIX, content))
            fence.open_for_writes(self._conn)
            self.note(promotion, {"opened_at": time.time()})

    def takes_writes(self) -> bool:
        with (
            translated(self.name),
            psycopg.connect(self._dsn, connect_timeout=_CONNECT_SECONDS, application_name="cdc promote") as session,
        ):
            return session.execute("SHOW default_transaction_read_only").fetchone() == ("off",)
