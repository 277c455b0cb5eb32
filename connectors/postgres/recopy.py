"""Some tables of a follower that runs are copied anew, while its applier goes on with all of them.

The new rows stand aside, in tables of the schema cdc, until they are as of the very transaction that the applier has
come to; then they take the place of the old ones in one transaction, in which the applier waits. So nobody sees a state
that the leader did not have, and the applier needs to know nothing (`ops/decisions/0014-tables-are-copied-aside.md`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import structlog
from psycopg import sql

from cdc.errors import CheckError, FencedError, RetryableError
from cdc.events.position import Position, TransactionName
from cdc.events.table import TableId
from cdc.ports import Decision
from cdc.protocol.lsn import Lsn
from connectors.postgres.bookkeeping import COPY, follower_sql, insert_decision
from connectors.postgres.catalog import table_facts
from connectors.postgres.connection import WatchedConnection, translated
from connectors.postgres.copy_plan import columns_of
from connectors.postgres.locks import BOOTSTRAP, applier_of, try_lock
from connectors.postgres.progress import follower_progress, leads
from connectors.postgres.read_only import BOOKKEEPING, make_read_only
from connectors.postgres.recopy_target import RecopyTarget
from connectors.postgres.snapshot_source import Ends, SnapshotSource

log = structlog.get_logger(__name__)

_LOCK_SECONDS = 0.5
"""Less than deadlock_timeout: the applier takes locks on tables in an order of its own."""
_LEFT_BEHIND = "SELECT relname FROM pg_class WHERE relnamespace = 'cdc'::regnamespace AND relname ~ '^copy_[0-9]+$'"


class PostgresRecopy(SnapshotSource):
    """Implements `cdc.copy_ports.Recopy`. `wanted` chooses among the published tables."""

    def __init__(self, ends: Ends, wanted: Callable[[TableId], bool], actor: str) -> None:
        super().__init__(ends, f"{ends.log_name} (some tables)")  # no topic has such a name
        self._wanted = wanted
        self._actor = actor
        self._target: RecopyTarget | None = None
        self._aside: dict[TableId, TableId] = {}

    @property
    def _conn(self) -> WatchedConnection:
        if self._follower is None:
            raise RuntimeError("begin() comes first")
        return self._follower

    def begin(self) -> None:
        self._leader.connect()
        self._leader.check_publication()
        if not any(map(self._wanted, self._leader.published())):
            raise CheckError("none of these tables is published", "see cdc init", self._leader_name)
        with translated(self._follower_name):
            self._connect_to_follower()
            self._leader.check_other_database(self._conn, self._follower_name)
            if not try_lock(self._conn, BOOTSTRAP):
                raise FencedError("another bootstrap works on this follower", "let it end", self._follower_name)
            self.position()
            self._conn.execute(follower_sql())
            make_read_only(self._conn, BOOKKEEPING)
            self._drop_copies()
            self._conn.execute("DELETE FROM cdc.bootstrap_part")
            self._conn.execute(
                "INSERT INTO cdc.bootstrap (log, run) VALUES (%s, %s) "
                "ON CONFLICT (log) DO UPDATE SET run = excluded.run, started_at = clock_timestamp()",
                (self._name, self._run),
            )

    def _drop_copies(self) -> None:
        for (name,) in self._conn.execute(_LEFT_BEHIND).fetchall():
            self._conn.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier("cdc", name)))

    def open_snapshot(self) -> Lsn:
        point = self._leader.open(self._wanted)
        tables = [source.table for source in self._leader.sources]
        with translated(self._follower_name):
            here = columns_of(self._conn, tables)
        with translated(self._leader_name):
            there = columns_of(self._leader.connection, tables)
        for table in tables:
            sent = {column.name for column in there.get(table, [])}
            own = [column.name for column in here.get(table, []) if column.name not in sent]
            if own:
                raise CheckError(
                    f"table {table} has columns of its own, whose values would be lost: {', '.join(own)}",
                    "copy it by hand", self._follower_name,
                )  # fmt: skip
            if sent and table not in here:
                raise CheckError(f"table {table} does not exist here", "make it as it is on the leader, empty",
                                 self._follower_name)  # fmt: skip
        with translated(self._follower_name), self._conn.transaction():
            self._aside = {table: self._make_aside(table) for table in tables}
        self._plan(self._conn, there, here, self._aside)
        return point

    def _make_aside(self, table: TableId) -> TableId:
        row = self._conn.execute("SELECT %s::regclass::oid", (sql.Identifier(*table).as_string(None),)).fetchone()
        aside = TableId("cdc", f"copy_{row[0] if row else 0}")
        self._conn.execute(
            sql.SQL("CREATE TABLE {} (LIKE {} INCLUDING ALL EXCLUDING DEFAULTS EXCLUDING COMMENTS)").format(
                sql.Identifier(*aside), sql.Identifier(*table)
            )
        )
        return aside

    def target(self) -> RecopyTarget:
        """Where the log's changes of these tables go meanwhile."""
        self._leader.close()
        self._target = RecopyTarget(self._follower_dsn, self._follower_name, self._log, self._aside)
        self._target.open()
        return self._target

    def position(self) -> Position:
        with translated(self._follower_name):
            if leads(self._conn, self._log, self._follower_name):
                raise CheckError("this node leads, nothing is copied to it", "name a follower", self._follower_name)
        return follower_progress(self._conn, self._log, self._follower_name)

    def take_appliers_place(self) -> bool:
        """False while an applier runs; after True none can start."""
        with translated(self._follower_name):
            return try_lock(self._conn, applier_of(self._log))

    @contextmanager
    def applier_waits(self) -> Iterator[Position]:
        """Inside, the position is this one, and only we write these tables. Readers go on. Commits at the end."""
        with translated(self._follower_name), self._conn.transaction():
            self._lock()
            yield self.position()

    def _lock(self) -> None:
        """Tables before position, as the applier does; and never holding one for long while waiting for another."""
        tables = sql.SQL(", ONLY ").join(sql.Identifier(*table) for table in sorted(self._aside))
        told = time.monotonic()
        self._conn.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(f"{_LOCK_SECONDS}s")))
        while True:
            try:
                with self._conn.transaction():
                    self._conn.execute(sql.SQL("LOCK TABLE ONLY {} IN EXCLUSIVE MODE").format(tables))
                    self._conn.execute("SELECT FROM cdc.position WHERE log = %s FOR UPDATE", (self._log,))
                break
            except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
                time.sleep(_LOCK_SECONDS / 5)
            if time.monotonic() - told > 10:
                told = time.monotonic()
                log.warning("waits for the applier, which works on a large transaction", node=self._follower_name)
        self._conn.execute("SET LOCAL lock_timeout = 0")

    def exchange(self, at: Position, ahead: TransactionName | None, rows: int) -> None:
        """Inside `applier_waits`: the copies take the place of the rows. `ahead` is the place in the log that they are
        as of, where that is not the position."""
        for table, aside in self._aside.items():
            self._exchange_one(table, aside)
            self._conn.execute(
                "DELETE FROM cdc.copied_ahead WHERE log = %s AND schema_name = %s AND table_name = %s",
                (self._log, *table),
            )
            if ahead is not None:
                self._conn.execute(
                    "INSERT INTO cdc.copied_ahead VALUES (%s, %s, %s, %s, %s::pg_lsn)",
                    (self._log, *table, ahead.epoch, str(ahead.commit_lsn)),
                )
        tables = tuple(map(str, self._aside))
        made = Decision(COPY, "cdc bootstrap --tables", self._actor, at.name, tables, rows)
        insert_decision(self._conn, self._log, made)

    def _exchange_one(self, table: TableId, aside: TableId) -> None:
        """Only what differs is written: a copy that repairs a few rows costs what they cost."""
        facts = table_facts(self._conn, table)
        if facts is None:
            raise RetryableError(f"table {table} is gone", "see who dropped it", self._follower_name)
        same = sql.SQL(" AND ").join(
            sql.SQL('"the copy".{0} {1} "the table".{0}{2}').format(
                sql.Identifier(name),
                sql.SQL(facts.equality.get(name, "=")),
                sql.SQL(f" COLLATE {facts.collation[name]}" if name in facts.collation else ""),
            )
            for name in facts.primary_key
        )
        names = {
            "table": sql.Identifier(*table),
            "copy": sql.Identifier(*aside),
            "columns": sql.SQL(", ").join(map(sql.Identifier, facts.columns)),
            "same": same,
        }
        delete = 'DELETE FROM ONLY {table} AS "the table"'
        insert = (
            'INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM ONLY {copy} AS "the copy"'
        )
        if facts.primary_key:
            delete += (
                ' WHERE NOT EXISTS (SELECT FROM ONLY {copy} AS "the copy" '
                'WHERE {same} AND "the copy" OPERATOR(pg_catalog.*=) "the table")'
            )
            insert += ' WHERE NOT EXISTS (SELECT FROM ONLY {table} AS "the table" WHERE {same})'
        self._conn.execute(sql.SQL(delete).format(**names))
        if facts.columns:
            self._conn.execute(sql.SQL(insert).format(**names))

    def finish(self) -> None:
        """The copies are dropped; also after a failure, where the follower can be reached."""
        with translated(self._follower_name):
            if self._target is not None:
                self._target.close()
            self._conn.execute("DELETE FROM cdc.bootstrap WHERE log = %s AND run = %s", (self._name, self._run))
            self._conn.execute("DELETE FROM cdc.bootstrap_part WHERE run = %s", (self._run,))
            self._drop_copies()

    def close(self) -> None:
        if self._target is not None:
            self._target.close()
        super().close()
