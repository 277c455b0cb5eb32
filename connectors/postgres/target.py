"""The follower as the applier sees it: one connection, one transaction, position and rows together.

HOT PATH: `apply_sets`. Sets of a few rows go as arrays, one a column, all in one round trip. Of larger ones inserts go
by COPY straight into the table, updates and deletes by COPY into a temporary table and one statement that joins it by
the key. Hash and merge joins and scans are off on this connection, because a batch must probe the index and never
scan the table.
"""

from __future__ import annotations

import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import orjson
import psycopg
import structlog
from psycopg import sql
from psycopg.pq import TransactionStatus

from cdc.errors import BlockedError, CdcError, CheckError, DivergenceError, FencedError, RetryableError
from cdc.events.net_effect import Change, Line, NetEffect, Row
from cdc.events.position import Position, TransactionName
from cdc.events.quoting import quoted
from cdc.events.table import TableId, TableSchema
from cdc.log.records import Truncation
from cdc.ports import FOLLOWER_SESSION, Decision, TablePlan
from cdc.protocol.lsn import Lsn
from connectors.postgres import sequences
from connectors.postgres.array_text import array_texts
from connectors.postgres.bookkeeping import (
    OVERWRITE,
    complete_bookkeeping,
    diverged_since,
    insert_decision,
    keep_epoch_ends,
    keep_shapes,
    skip_at,
)
from connectors.postgres.catalog import may_restart_identity, table_facts
from connectors.postgres.connection import WatchedConnection, translated
from connectors.postgres.copy_text import copy_text
from connectors.postgres.errors import condition, translate
from connectors.postgres.locks import HOLDER, applier_of, try_lock
from connectors.postgres.pipeline import Pipeline
from connectors.postgres.progress import follower_progress, leads, timestamp
from connectors.postgres.read_only import make_read_only
from connectors.postgres.script import Outcome, Step, play
from connectors.postgres.shape import require_place
from connectors.postgres.silence import connect_watched
from connectors.postgres.table_statements import Stage, TableStatements, cells_of, only

log = structlog.get_logger(__name__)

_SESSION = """
SET session_replication_role = replica;
SET synchronous_commit = off;
SET enable_hashjoin = off;
SET enable_mergejoin = off;
SET enable_seqscan = off;
SET plan_cache_mode = force_generic_plan;
SET jit = off;
SET lock_timeout = '5s';
SET tcp_user_timeout = '25s'
"""
"""synchronous_commit may be off because rows and position commit together: what a crash of the follower
takes back is read from the log again. A window that waits for a lock is given up after a while, as transactions that
need no lock may be in it; `wait_for_locks` is for the one that does. The server gives up a session whose machine is
gone after 25 s, also when it has sent an answer: keepalives wait for that one's receipt."""
_NOTICE_DEATH = "SET client_connection_check_interval = '2s'"
"""Without it, the backend of an applier that was killed while a statement ran or waited for a lock would keep the
lock of this follower until that statement ends."""
_MOVE = b"""
WITH moved AS (
    UPDATE cdc.position SET epoch = $1, commit_lsn = $2, end_lsn = $3::pg_lsn, committed_at = $4::timestamptz,
        next_offset = $5, leader = $6, applied_at = clock_timestamp()
    WHERE log = $7 AND epoch = $8 AND commit_lsn = $9 RETURNING log
)
SELECT pg_replication_origin_xact_setup($3, $4) WHERE 1 / (SELECT count(*) FROM moved) = 1
"""
"""A COMMIT that is sent along with it must not be reached where nothing was moved, and only an error prevents that."""
ROWS_IN_ARRAYS = 500
"""Up to so many rows a table. A window of TPC-B (us of CPU, applier and follower): 10 transactions 790 as arrays, 1,760
by COPY; 110 take 3,140 and 4,190; 300 take 6,650 and 7,710. From 1,000 rows a table on there is no difference."""
_BYTES_IN_ARRAYS = 2**18
_PRUNED = [Step(b"SET LOCAL plan_cache_mode = " + mode) for mode in (b"force_custom_plan", b"force_generic_plan")]
"""Before and after single changes of a partitioned table: a generic plan locks each of its partitions."""
_CHANGES_A_TRIP = 1000
"""Of those that go one by one."""
_CANCEL_SECONDS = 2.0
_LOCK_PATIENCE_SECONDS = 10.0
"""A predecessor that was killed leaves its backend behind until the server notices."""
_DEAD_HOLDER_SECONDS = 40.0
"""For one that does nothing meanwhile: when its machine is gone, the server knows after 25 s."""


@dataclass(frozen=True, slots=True)
class _Set:
    """A step for a table, and how many rows it must meet."""

    plan: TablePlan
    step: Step
    rows: int | None = None


class PostgresTarget:
    """Implements `cdc.ports.Target`. `log_name` is the topic whose position the follower keeps; `wait`
    sleeps for some seconds and tells whether to stop, as `StopToken.wait` does."""

    def __init__(
        self,
        dsn: str,
        node: str,
        log_name: str,
        wait: Callable[[float], bool],
        overwrite: Callable[[TableId], bool] = lambda _: False,
        actor: str = "",
        alive: Callable[[], None] | None = None,
    ) -> None:
        """`overwrite` tells the tables whose rows are overwritten where they differ; `actor` is who allowed it;
        `alive` is called several times a second while the follower is at work for us."""
        self._overwrite = overwrite
        self._actor = actor
        self._alive = alive
        self._overwritten: Counter[TableId] = Counter()
        self._overwrites: dict[TableId, int] = {}
        self._has_decisions = self._noted = False
        self._dsn = dsn
        self._node = node
        self._log = log_name
        self._wait = wait
        self._connection: WatchedConnection | None = None
        self._own_pipeline: Pipeline | None = None
        self._position: Position | None = None
        self._own_backends: set[int] = set()
        """Sessions of ours that may hold the lock, as far as the server knows."""
        self._tables: dict[str, TableStatements] = {}
        self._stages: set[str] = set()
        self._saved = False
        """Whether the transaction has a savepoint."""
        self._staged: set[str] = set()

    # session

    def open(self) -> Position | None:
        self.close()
        self._connection = connect_watched(self._dsn, f"cdc apply {self._node}", self._node)
        self._connection.on_wake = self._alive
        with translated(self._node):
            if leads(self._connection, self._log, self._node):
                return None
            self._take_role()
            self._take_lock()
            self._has_decisions = self._is_follower() and complete_bookkeeping(self._connection, self._node)
            self._look_back()
        self._position = follower_progress(self._connection, self._log, self._node)
        with translated(self._node):
            self._take_origin()
            self._connection.autocommit = False
        return self._position

    def _is_follower(self) -> bool:
        return self._conn.execute("SELECT to_regclass('cdc.position') IS NOT NULL").fetchone() == (True,)

    def _look_back(self) -> None:
        if not self._has_decisions:
            return
        query = "SELECT FROM cdc.blocked WHERE log = %s AND problem IS NOT NULL"
        self._noted = self._conn.execute(query, (self._log,)).fetchone() is not None
        since = diverged_since(self._conn, self._log)
        if since:
            log.warning("this follower has diverged: transactions were left out; bootstrap it anew", since=since)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = self._own_pipeline = self._position = None
        self._tables.clear()
        self._stages.clear()
        self._transaction_is_over()

    def wait_for_locks(self) -> None:
        with translated(self._node):
            self._conn.execute("SET LOCAL lock_timeout = 0")

    def interrupt(self) -> None:
        connection = self._connection
        if connection is None or connection.closed:
            return
        with suppress(psycopg.Error):
            connection.cancel_safe(timeout=_CANCEL_SECONDS)
        time.sleep(_CANCEL_SECONDS / 2)
        if connection.info.transaction_status is TransactionStatus.ACTIVE:
            # The server does not answer at all. The thread that waits for it finds the connection lost, or has found it
            # so and closed it just now.
            with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as end:
                end.shutdown(socket.SHUT_RDWR)

    @property
    def _conn(self) -> WatchedConnection:
        if self._connection is None:
            raise RetryableError("not connected", where=self._node)
        return self._connection

    @property
    def _pipeline(self) -> Pipeline:
        if self._own_pipeline is None:
            raise RetryableError("not connected", where=self._node)
        return self._own_pipeline

    def _play(self, steps: Sequence[Step], meanwhile: Callable[[], bool] = lambda: False) -> Outcome:
        """Raises psycopg.Error for a lost connection."""
        if any(step.data is not None for step in steps):
            return play(self._conn, steps, meanwhile)
        return self._pipeline.play(steps, meanwhile)

    def _take_role(self) -> None:
        self._own_pipeline = Pipeline(self._conn)
        try:
            self._conn.execute(_SESSION)
            with suppress(psycopg.errors.InvalidParameterValue):  # a server on Windows cannot do it
                self._conn.execute(_NOTICE_DEATH)
        except psycopg.errors.InsufficientPrivilege as error:
            raise CheckError(
                "the role of the dsn may not set session_replication_role",
                "GRANT SET ON PARAMETER session_replication_role TO it (PostgreSQL 15 or newer), or use a superuser",
                self._node,
            ) from error

    def _take_lock(self) -> None:
        """One applier a follower: a session lock, gone with the connection."""
        began = time.monotonic()
        mine = self._conn.info.backend_pid
        seen: set[tuple[object, ...]] = set()
        while True:
            self._own_backends.add(mine)  # before the answer, which may be lost on its way
            if try_lock(self._conn, applier_of(self._log)):
                self._own_backends = {mine}
                return
            self._own_backends.discard(mine)
            self._end_lost_sessions()
            holder, *signs = self._lock_holder()
            seen.add(tuple(signs))
            lives = len(seen) > 2  # the last statement of one that is gone may end meanwhile
            patience = _LOCK_PATIENCE_SECONDS if lives else _DEAD_HOLDER_SECONDS
            if time.monotonic() - began >= patience:
                raise FencedError(
                    f"another applier works on this follower ({holder})", "stop one of the two", self._node
                )
            if self._wait(0.5):
                raise RetryableError("stopped while another applier had the lock", where=self._node)

    def _end_lost_sessions(self) -> None:
        """When the connection broke, the server may not know it, and our own session before holds the lock."""
        self._conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = ANY(%s) AND application_name = %s",
            (list(self._own_backends), f"cdc apply {self._node}"),
        )

    def _lock_holder(self) -> tuple[str, object, object]:
        """Who it is, for people, and what changes while it works."""
        query = f"SELECT a.pid, a.client_addr, a.backend_start::timestamptz(0), a.state_change {HOLDER}"
        row = self._conn.execute(query, (applier_of(self._log),)).fetchone()
        if row is None:
            return "it just left", None, None
        return f"backend {row[0]} from {row[1] or 'a local socket'} since {row[2]}", row[0], row[3]

    def _take_origin(self) -> None:
        """Marks what we write as replayed, for whoever captures this follower."""
        try:
            row = self._conn.execute(
                "SELECT 'cdc_' || oid FROM pg_database WHERE datname = current_database()"
            ).fetchone()
            name = {"name": row and row[0]}
            self._conn.execute(
                "SELECT pg_replication_origin_create(%(name)s) WHERE pg_replication_origin_oid(%(name)s) IS NULL", name
            )
            self._conn.execute("SELECT pg_replication_origin_session_setup(%(name)s)", name)
        except psycopg.errors.InsufficientPrivilege as error:
            raise CheckError(
                "the role of the dsn may not set up a replication origin",
                "GRANT EXECUTE ON FUNCTION pg_replication_origin_create, pg_replication_origin_oid, "
                "pg_replication_origin_session_setup, pg_replication_origin_xact_setup TO it",
                self._node,
            ) from error
        except psycopg.errors.ObjectInUse as error:
            # A session that ends gives up its lock first, and this then.
            raise RetryableError(
                "the replication origin of this database is in use (55006)",
                "one applier a database: if this stays, stop that of the other group",
                self._node,
            ) from error
        except psycopg.errors.ConfigurationLimitExceeded as error:
            raise BlockedError(
                "no replication origin is free (53400)",
                "drop those of databases that are gone (pg_replication_origin_status, pg_replication_origin_drop), or "
                "raise max_active_replication_origins (max_replication_slots before PostgreSQL 18)",
                self._node,
            ) from error

    def copied_ahead(self) -> dict[TableId, TransactionName]:
        with translated(self._node):
            if self._conn.execute("SELECT to_regclass('cdc.copied_ahead')").fetchone() == (None,):
                return {}
            rows = self._conn.execute(
                "SELECT schema_name, table_name, a.epoch, from_lsn::text FROM cdc.copied_ahead a "
                "JOIN cdc.position p USING (log) WHERE log = %s AND (a.epoch, from_lsn) > (p.epoch, commit_lsn)",
                (self._log,),
            ).fetchall()
        return {TableId(schema, name): TransactionName(epoch, Lsn.parse(lsn)) for schema, name, epoch, lsn in rows}

    # shapes

    def plan(self, schema: TableSchema, not_stored: Sequence[TableSchema]) -> TablePlan:
        place = self._place_of(schema.table)
        with translated(self._node):
            self._pipeline.forget()
            facts = table_facts(self._conn, place)
            facts = require_place(self._conn, schema, facts, self._log, self._node, not_stored)
            make_read_only(self._conn, [place])  # it may be younger than the bootstrap
        table = TableStatements(schema if place == schema.table else replace(schema, table=place), facts)
        self._tables[table.plan.schema.fingerprint] = table
        return table.plan

    def _place_of(self, table: TableId) -> TableId:
        """Where the rows of a table of the log go."""
        return table

    def known_schema(self, fingerprint: str) -> TableSchema | None:
        with translated(self._node):
            row = self._conn.execute(
                "SELECT description FROM cdc.relation WHERE log = %s AND fingerprint = %s", (self._log, fingerprint)
            ).fetchone()
        return TableSchema.from_json(row[0]) if row else None

    # transaction

    def rollback(self) -> None:
        with translated(self._node):
            self._conn.rollback()
        self._stages.clear()
        self._transaction_is_over()
        self._overwritten.clear()

    def _transaction_is_over(self) -> None:
        self._staged.clear()
        self._saved = False

    def note_blocked(self, problem: str) -> None:
        connection = self._connection
        if connection is None or not self._has_decisions:
            return
        with suppress(psycopg.Error):
            connection.rollback()
            connection.execute(
                "INSERT INTO cdc.blocked (log, problem) VALUES (%s, %s) ON CONFLICT (log) DO UPDATE SET "
                "problem = excluded.problem, since = CASE WHEN blocked.problem = excluded.problem "
                "THEN blocked.since ELSE excluded.since END",
                (self._log, problem),
            )
            connection.commit()
            self._noted = True

    def skipped(self, name: TransactionName) -> Decision | None:
        """The decision by which this follower left that transaction out."""
        if not self._has_decisions:
            raise CheckError(
                "the table cdc.decision is missing, and our role may not make it",
                "run sql/follower.sql here as the owner of the schema cdc",
                self._node,
            )
        with translated(self._node):
            return skip_at(self._conn, self._log, name)

    def store_epoch_ends(self, ends: Sequence[Position]) -> None:
        with translated(self._node):
            keep_epoch_ends(self._conn, self._log, ends)

    def store_sequences(self, values: Mapping[TableId, int]) -> None:
        with translated(self._node):
            sequences.keep(self._conn, self._log, values)

    def commit(self, position: Position, schemas: Sequence[TableSchema], decision: Decision | None = None) -> None:
        before = self._position
        if before is None:
            raise RetryableError("not connected", where=self._node)
        with translated(self._node):
            if decision is not None:
                insert_decision(self._conn, self._log, decision)
            for table, count in self._overwritten.items():
                self._record_overwrite(table, count, position.name)
            if self._noted:
                self._conn.execute("UPDATE cdc.blocked SET problem = NULL WHERE log = %s", (self._log,))
            keep_shapes(self._conn, self._log, schemas)
            outcome = self._play([self._moved(before, position), Step(b"COMMIT")])
            if isinstance(outcome.error, psycopg.errors.DivisionByZero) and not outcome.rows:
                self._conn.rollback()
                raise FencedError("somebody else moved this follower's position", "see who applies here", self._node)
            if outcome.error is not None:
                raise outcome.error
        self._position = position
        self._noted = False
        self._overwritten.clear()
        self._transaction_is_over()

    def _moved(self, before: Position, after: Position) -> Step:
        """Moves the position; fails where the position is not the one from before."""
        values = (
            after.epoch, after.commit_lsn, after.end_lsn, timestamp(after.committed_at_us).isoformat(),
            after.next_offset, after.leader, self._log, before.epoch, before.commit_lsn,
        )  # fmt: skip
        return Step(_MOVE, values=[None if value is None else str(value).encode() for value in values])

    def _record_overwrite(self, table: TableId, count: int, name: TransactionName) -> None:
        """One row a table and session, however many rows of it are overwritten."""
        log.warning("rows were overwritten, as the configuration allows", table=str(table), rows=count)
        if not self._has_decisions:
            return
        if table in self._overwrites:
            self._conn.execute(
                "UPDATE cdc.decision SET events = events + %s, epoch = %s, commit_lsn = %s::pg_lsn WHERE id = %s",
                (count, name.epoch, str(name.commit_lsn), self._overwrites[table]),
            )
        else:
            decision = Decision(OVERWRITE, "[apply] overwrite", self._actor, name, (str(table),), count)
            self._overwrites[table] = insert_decision(self._conn, self._log, decision)

    # rows

    def truncate(self, statement: Truncation) -> None:
        with translated(self._node):
            if statement.spares_others:  # a TRUNCATE would reach them, or be refused, where they refer to these
                for table in statement.tables:
                    self._conn.execute(sql.SQL("DELETE FROM {}").format(self._only(table)))
                return
            restart = statement.restart_identity and may_restart_identity(self._conn, statement.tables)
            text = sql.SQL("TRUNCATE {tables}{restart}{cascade}").format(
                tables=sql.SQL(", ").join(map(self._only, statement.tables)),
                restart=sql.SQL(" RESTART IDENTITY" if restart else ""),
                cascade=sql.SQL(" CASCADE" if statement.cascade else ""),
            )
            self._conn.execute(text)

    def _only(self, table: TableId) -> sql.Composed:
        facts = table_facts(self._conn, table)
        if facts is None:
            raise BlockedError(f"table {table} does not exist here", "create it as it is on the leader", self._node)
        return only(table, facts)

    def apply_sets(
        self, effects: Sequence[tuple[TablePlan, NetEffect]], meanwhile: Callable[[], bool]
    ) -> TablePlan | None:
        sets = self._few(effects) or [one for plan, effect in effects for one in self._sets(plan, effect)]
        if not sets:
            return None
        begun = self._conn.info.transaction_status is not TransactionStatus.IDLE
        if begun:
            # One at a time: each that is open takes 10 kB of the server's memory, and a transaction may have thousands.
            places = [b"RELEASE SAVEPOINT piece"] if self._saved else []
            sets[:0] = [_Set(sets[0].plan, Step(place)) for place in [*places, b"SAVEPOINT piece"]]
            self._saved = True
        with translated(self._node):
            outcome = self._play([one.step for one in sets], meanwhile)
        for one, rows in zip(sets, outcome.rows, strict=False):
            if one.rows not in (None, rows):
                return self._undone(begun, one.plan)
        if outcome.error is not None:
            failed, error = sets[len(outcome.rows)].plan, outcome.error
            if isinstance(error, psycopg.IntegrityError | psycopg.DataError | psycopg.errors.InsufficientPrivilege):
                return self._undone(begun, failed)
            raise self._translate(error, f"{self._node}, table {failed.schema.table}") from error
        return None

    def _undone(self, begun: bool, failed: TablePlan) -> TablePlan:
        """The transaction is as it was before the sets."""
        if begun:
            with translated(self._node):
                self._conn.execute("ROLLBACK TO SAVEPOINT piece")
            self._stages.clear()
        else:
            self.rollback()
        return failed

    def _few(self, effects: Sequence[tuple[TablePlan, NetEffect]]) -> list[_Set]:
        """What brings the tables to their effects, if all of them fit in arrays."""
        tables = [self._tables[plan.schema.fingerprint] for plan, _ in effects]
        if not all(table.fit_in_arrays for table in tables) or any(e.rows > ROWS_IN_ARRAYS for _, e in effects):
            return []
        few: list[tuple[TableStatements, _Rows, bytes]] = []
        size = 0
        for table, (_, effect) in zip(tables, effects, strict=True):
            for rows in _rows_of(table, effect):
                lines = rows.lines()
                size += len(lines)
                if size > _BYTES_IN_ARRAYS:
                    return []
                few.append((table, rows, lines))
        return [
            _Set(
                table.plan,
                Step(table.arrays(rows.names).statements[rows.op], values=array_texts(lines, len(rows.names))),
                rows.number,
            )
            for table, rows, lines in few
        ]

    def _sets(self, plan: TablePlan, effect: NetEffect) -> Iterator[_Set]:
        """What brings a table to the effect, however many rows that are."""
        table = self._tables[plan.schema.fingerprint]
        for rows in _rows_of(table, effect):
            if rows.op == "c":
                yield _Set(plan, Step(table.copy_into, rows.lines), rows.number)
            else:
                stage = table.stage(rows.names)
                yield from self._filled(plan, stage, rows.lines)
                yield _Set(plan, Step(stage.statements[rows.op]), rows.number)

    def _filled(self, plan: TablePlan, stage: Stage, data: Callable[[], bytes]) -> Iterator[_Set]:
        """The temporary table with these rows and no others."""
        if stage.name not in self._stages:
            self._stages.add(stage.name)
            yield _Set(plan, Step(stage.create))
        if stage.name in self._staged:
            yield _Set(plan, Step(stage.empty))
        self._staged.add(stage.name)
        yield _Set(plan, Step(stage.copy_into, data))

    def apply_in_order(self, steps: Sequence[tuple[TablePlan, Change]]) -> None:
        if not any(self._overwrite(plan.schema.table) for plan, _ in steps):
            self._all_or_stop(steps)
            return
        with translated(self._node):
            self._conn.execute("SAVEPOINT strict")
        try:
            self._all_or_stop(steps)
        except DivergenceError:
            with translated(self._node):
                self._conn.execute("ROLLBACK TO SAVEPOINT strict")
            for plan, change in steps:
                if self._overwrite(plan.schema.table):
                    self._overwrite_one(plan, change)
                else:
                    self._all_or_stop([(plan, change)])
        with translated(self._node):
            self._conn.execute("RELEASE SAVEPOINT strict")

    def _overwrite_one(self, plan: TablePlan, change: Change) -> None:
        """The row comes to what the leader's is, whatever it was here; where that cannot be known, it stops."""
        op, fingerprint, before, after, partial, *place = change
        commit_lsn, seq, offset = place
        whole: Change = ("u", fingerprint, None, after, False, commit_lsn, seq, offset)
        if op == "c" and plan.key:
            if self._met(plan, whole):
                self._overwritten[plan.schema.table] += 1
                return
        elif op != "c":
            if self._met(plan, change):
                return
            if op == "u" and (partial or after is None or not plan.columns or not set(plan.columns) <= after.keys()):
                raise self._missing(plan, change)
            self._overwritten[plan.schema.table] += 1
            if op == "d":
                return
            if before is not None and plan.key and self._met(plan, whole):
                return
        self._all_or_stop([(plan, ("c", *whole[1:]))])

    def _met(self, plan: TablePlan, change: Change) -> bool:
        """Whether the change found its row."""
        return self._one_by_one([(plan, change)]) == [1]

    def _all_or_stop(self, steps: Sequence[tuple[TablePlan, Change]]) -> None:
        for first in range(0, len(steps), _CHANGES_A_TRIP):
            some = steps[first : first + _CHANGES_A_TRIP]
            for (plan, change), rows in zip(some, self._one_by_one(some), strict=True):
                if rows != 1:
                    raise self._missing(plan, change)

    def _one_by_one(self, steps: Sequence[tuple[TablePlan, Change]]) -> list[int]:
        """How many rows each met. Raises for the first that fails."""
        tables = [self._tables[plan.schema.fingerprint] for plan, _ in steps]
        own = [table.one(change) for table, (_, change) in zip(tables, steps, strict=True)]
        pruned = any(table.partitioned for table in tables)
        try:
            outcome = self._play([*_PRUNED[:1], *own, *_PRUNED[1:]] if pruned else own)
        except psycopg.Error as error:
            raise self._translate(error, self._node) from error
        rows = outcome.rows[1:][: len(own)] if pruned else outcome.rows
        if outcome.error is not None:
            if len(rows) == len(steps):  # what failed comes after them
                raise self._translate(outcome.error, self._node) from outcome.error
            raise self._blamed(outcome.error, steps[len(rows)]) from outcome.error
        return rows

    def _blamed(self, error: psycopg.Error, culprit: tuple[TablePlan, Change]) -> CdcError:
        general = self._translate(error, self._node)
        if isinstance(general, RetryableError | CheckError) and not isinstance(general, BlockedError):
            return general
        plan, change = culprit
        where = self._place(plan, change)
        if isinstance(general, BlockedError):
            return BlockedError(general.what, general.remedy, where)
        own = error.diag.column_name
        if error.sqlstate == "23502" and own is not None and own not in plan.columns:
            return BlockedError(
                f"column {own} is NOT NULL without a DEFAULT here, and the leader does not send it",
                _drop_not_null(plan, own),
                where,
            )
        own_types = self._tables[plan.schema.fingerprint].own_types
        if error.sqlstate == "22P02" and own_types:
            return BlockedError(
                "a type here does not take what the leader's takes (22P02)",
                f"run on this follower what was run on the leader, such as ALTER TYPE ... ADD VALUE: {own_types}",
                where,
            )
        facts = [error.sqlstate or "", _key_names(plan)]
        if error.diag.constraint_name:
            facts.insert(1, f"constraint {error.diag.constraint_name}")
        what = condition(error)
        if error.sqlstate == "23505" and change[0] == "c":
            what = "a row with this key or unique value is there already"
        return DivergenceError(f"{what} ({', '.join(facts)})", _REPAIR, where, key=_key_values(plan, change))

    def _translate(self, error: psycopg.Error, where: str) -> CdcError:
        """Where the table changed under us the next session finds out how, and says what to do."""
        if error.sqlstate in _CHANGED_SHAPE:
            return BlockedError(
                f"the table is not what it was: {condition(error)} ({error.sqlstate})",
                "make its columns those of the leader; the next try says which they are",
                where,
            )
        return translate(error, where)

    def _place(self, plan: TablePlan, change: Change) -> str:
        verb, _, _, _, _, commit_lsn, seq, _ = change
        return f"{self._node}, {_VERBS[verb]} on {plan.schema.table} in transaction {Lsn(commit_lsn)} event {seq}"

    def _missing(self, plan: TablePlan, change: Change) -> DivergenceError:
        where = self._place(plan, change)
        return DivergenceError(
            f"the row is not there (02000, {_key_names(plan)})", _REPAIR, where, key=_key_values(plan, change)
        )


class _Rows(NamedTuple):
    """Rows with which the same is done (`op` as in a change): their columns, their text for COPY, how many they are."""

    op: str
    names: tuple[str, ...]
    lines: Callable[[], bytes]
    number: int


def _rows_of(table: TableStatements, effect: NetEffect) -> Iterator[_Rows]:
    """In the order in which they bring the table to the effect."""
    key, columns = table.plan.key, table.plan.columns
    if effect.deletes:
        yield _Rows("d", key, partial(_copied_keys, effect.deletes, key), len(effect.deletes))
    for names, rows in effect.updates.items():
        yield _Rows("u", names, partial(_copied, rows, cells_of(names)), len(rows))
    if effect.inserts:
        yield _Rows("c", columns, partial(_copied, effect.inserts, table.cells), len(effect.inserts))


def _copied(rows: list[Row | Line], cells: Callable[[Row], Collection[str | None]]) -> bytes:
    """Data for COPY; who takes several rows together does not mind their order."""
    lines = [row for row in rows if isinstance(row, bytes)]
    return copy_text([cells(row) for row in rows if not isinstance(row, bytes)]) + b"".join(lines)


def _copied_keys(keys: list[Any], names: tuple[str, ...]) -> bytes:
    return copy_text(((key,) for key in keys) if len(names) == 1 else keys)


_VERBS = {"c": "insert", "u": "update", "d": "delete"}
_REPAIR = "the follower's rows differ from the leader's: make them equal, or bootstrap it anew"


_CHANGED_SHAPE = ("0A000", "3F000", "42703", "42704", "42804", "42883", "42P01", "428C9")
"""A column, type or table that is gone or was changed while we used it."""


def _drop_not_null(plan: TablePlan, column: str) -> str:
    return (
        f"run on this follower, after {FOLLOWER_SESSION}: ALTER TABLE {quoted(*plan.schema.table)} "
        f"ALTER COLUMN {quoted(column)} DROP NOT NULL, "
        "or SET DEFAULT, or DROP COLUMN if the leader dropped it"
    )


def _key_names(plan: TablePlan) -> str:
    return f"key columns: {', '.join(plan.key)}" if plan.key else "found by its whole row"


def _key_values(plan: TablePlan, change: Change) -> str:
    """For the operator who asks for it; see DivergenceError."""
    row = change[2] if change[2] is not None else change[3]
    return orjson.dumps({name: (row or {}).get(name) for name in plan.key}).decode() if plan.key else ""
