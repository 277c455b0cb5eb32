"""Leader to follower for the first time: schema by pg_dump, rows by COPY, all from one exported snapshot.

The snapshot lives as long as one connection to the leader that this process holds. Workers come and go, and see the
same snapshot; when that connection is lost, or this process, nobody can go on: the next run clears and starts anew
(`ops/decisions/0013-a-snapshot-lives-with-its-process.md`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress

import psycopg
import structlog
from psycopg import sql

from cdc.copy_ports import Build, SchemaChoice
from cdc.errors import CheckError, FencedError, RetryableError
from cdc.events.position import Position
from cdc.events.table import TableId, TableSchema
from cdc.protocol.lsn import Lsn
from connectors.postgres import sequences
from connectors.postgres.bookkeeping import follower_sql, keep_shapes
from connectors.postgres.connection import translated
from connectors.postgres.copy_plan import columns_of
from connectors.postgres.locks import BOOTSTRAP, try_lock
from connectors.postgres.programs import ClientPrograms
from connectors.postgres.progress import timestamp
from connectors.postgres.publication import existing
from connectors.postgres.read_only import BOOKKEEPING, make_read_only, read_only_by_default
from connectors.postgres.schema_copy import DUMP, builds_of, check_same_shape
from connectors.postgres.snapshot_source import Ends, SnapshotSource

log = structlog.get_logger(__name__)

_LOCK_PATIENCE_SECONDS = 5.0
"""A predecessor that was killed leaves its backend behind for a moment."""

FOREIGN_TABLES = """
SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
WHERE relkind IN ('r', 'p', 'v', 'm', 'f') AND nspname NOT IN ('information_schema', 'cdc') AND nspname !~ '^pg_'
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND deptype = 'e')
"""
"""What is there besides PostgreSQL's own, extensions' and ours."""


class PostgresInitialCopy(SnapshotSource):
    """Implements `cdc.copy_ports.InitialCopy`."""

    def __init__(self, ends: Ends, choice: SchemaChoice) -> None:
        super().__init__(ends, ends.log_name)
        self._choice = choice
        self._after_data = ""
        self._sequences: dict[TableId, int] = {}
        self._shapes: Sequence[TableSchema] = ()

    def begin(self) -> bool:
        self._leader.connect()
        self._programs = ClientPrograms(self._leader.server_version // 10000)
        self._leader.check_publication()
        follower = self._connect()
        with translated(self._follower_name):
            self._leader.check_other_database(follower, self._follower_name)
            return self._claim(follower)

    def _connect(self) -> psycopg.Connection:
        with translated(self._follower_name):
            follower = self._connect_to_follower()
            self._take_lock(follower)
        return follower

    def _claim(self, follower: psycopg.Connection) -> bool:
        """Record that the copy began in empty tables; clear what an earlier try left."""
        state, choice = self._earlier_copy(follower)
        if state == "finished":
            return False
        if state == "unfinished":
            self._clear(follower, choice)
        self._check_place(follower, self._leader.published())
        self._check_empty(follower)
        follower.execute(follower_sql())
        follower.execute(
            "INSERT INTO cdc.bootstrap (log, run, schema_choice) VALUES (%s, %s, %s) ON CONFLICT (log) DO UPDATE "
            "SET run = excluded.run, schema_choice = excluded.schema_choice, started_at = clock_timestamp()",
            (self._log, self._run, self._choice.value),
        )
        follower.execute("DELETE FROM cdc.bootstrap_part")
        return True

    def _take_lock(self, follower: psycopg.Connection) -> None:
        """One bootstrap a follower, as it clears what looks unfinished. A session lock, gone with the connection."""
        deadline = time.monotonic() + _LOCK_PATIENCE_SECONDS
        while not try_lock(follower, BOOTSTRAP):
            if time.monotonic() > deadline:
                raise FencedError("another bootstrap works on this follower", "let it end", self._follower_name)
            time.sleep(0.1)

    def _earlier_copy(self, follower: psycopg.Connection) -> tuple[str, SchemaChoice]:
        """Its state, and where its schema came from."""
        state, choice = copy_state(follower, self._log)
        return state, SchemaChoice(choice) if choice else self._choice

    def _clear(self, follower: psycopg.Connection, choice: SchemaChoice) -> None:
        if (choice is SchemaChoice.COPY) != (self._choice is SchemaChoice.COPY):
            raise CheckError(
                f"a bootstrap with --schema {choice.value} has begun here and did not end",
                f"repeat it with --schema {choice.value}, or begin with a new database",
                self._follower_name,
            )
        log.warning("clearing an unfinished bootstrap", node=self._follower_name)
        with follower.transaction():
            # A worker that was left behind ends before this, or finds that its copy is void.
            follower.execute(follower_sql())
            follower.execute("UPDATE cdc.bootstrap SET run = %s WHERE log = %s", (self._run, self._log))
        if choice is SchemaChoice.COPY:
            _drop_everything(follower)
            return
        for table in self._present(follower):
            follower.execute(sql.SQL("DELETE FROM ONLY {}").format(sql.Identifier(*table)))

    def _check_empty(self, follower: psycopg.Connection) -> None:
        if self._choice is SchemaChoice.COPY:
            row = follower.execute(FOREIGN_TABLES).fetchone()
            if row and row[0]:
                raise CheckError(
                    f"the database is not empty ({row[0]} tables and views)",
                    "bootstrap needs an empty database: create one, or correct the dsn; where the schema is there "
                    "already and its tables are empty, see --schema",
                    self._follower_name,
                )
            return
        for table in self._present(follower):
            query = sql.SQL("SELECT 1 FROM ONLY {} LIMIT 1").format(sql.Identifier(*table))
            if follower.execute(query).fetchone() is not None:
                raise CheckError(
                    f"table {table} is not empty", "empty all published tables, or correct the dsn", self._follower_name
                )

    def _present(self, follower: psycopg.Connection) -> list[TableId]:
        """Of the published tables, those that are there. A partitioned one has no rows itself."""
        return sorted(columns_of(follower, self._leader.published()))

    def open_snapshot(self) -> Lsn:
        return self._leader.open()

    def prepare_schema(self) -> None:
        tables = [source.table for source in self._leader.sources]
        if self._choice is SchemaChoice.COPY:
            self._copy_schema_before_data()
        with translated(f"{self._leader_name} and {self._follower_name}"):
            self._check_place(self._sink, tables)
            there, here = columns_of(self._leader.connection, tables), columns_of(self._sink, tables)
        self._shapes = self._leader.shapes()
        self._plan(self._sink, there, here, {})

    def _check_place(self, follower: psycopg.Connection, tables: Sequence[TableId]) -> None:
        """Of a schema that we do not make: before anything is written down, and again as of the snapshot."""
        if self._choice is SchemaChoice.VERIFY:
            check_same_shape(self._leader.connection, follower, tables, self._follower_name)
        elif self._choice is SchemaChoice.NONE:
            missing = existing(self._leader.connection, tables) - existing(follower, tables)
            if missing:
                raise CheckError(
                    f"table {min(missing)} does not exist here", "make it as it is on the leader", self._follower_name
                )

    def _copy_schema_before_data(self) -> None:
        dump = (f"--snapshot={self._leader.name}", *DUMP)
        before = self._programs.pg_dump(self._leader_dsn, self._leader_name, "--section=pre-data", *dump)
        self._after_data = self._programs.pg_dump(self._leader_dsn, self._leader_name, "--section=post-data", *dump)
        if self._sink.info.server_version < 170000:
            before = before.replace("\nSET transaction_timeout = 0;\n", "\n", 1)
        self._programs.psql(self._follower_dsn, self._follower_name, before)

    def builds(self) -> Sequence[Sequence[Build]]:
        return builds_of(self._after_data)

    def release_snapshot(self) -> None:
        # The log tells those that move from now on; of the others only the leader can.
        self._sequences = self._leader.sequences()
        self._leader.close()

    def finish(self, position: Position) -> None:
        at = timestamp(position.committed_at_us)
        sink = self._sink
        with translated(self._follower_name):
            with sink.transaction():
                self._check_all_is_there(sink)
                ended = sink.execute(
                    "UPDATE cdc.bootstrap SET finished_at = clock_timestamp() WHERE log = %s AND run = %s",
                    (self._log, self._run),
                )
                if ended.rowcount != 1:
                    raise FencedError("another bootstrap has begun on this follower", "let it end", self._follower_name)
                sink.execute("DELETE FROM cdc.bootstrap_part")
                sink.execute(
                    "INSERT INTO cdc.position (log, epoch, commit_lsn, end_lsn, committed_at, next_offset, leader) "
                    "VALUES (%s, %s, %s::pg_lsn, %s::pg_lsn, %s, %s, %s)",
                    (
                        self._log,
                        position.epoch,
                        str(position.commit_lsn),
                        str(position.end_lsn),
                        at,
                        position.next_offset,
                        position.leader,
                    ),
                )
                keep_shapes(sink, self._log, self._shapes)
                sequences.keep(sink, self._log, self._sequences)
                make_read_only(sink, [*(source.table for source in self._leader.sources), *BOOKKEEPING])
                read_only_by_default(sink, on=True)
            sink.execute("ANALYZE")

    def _check_all_is_there(self, sink: psycopg.Connection) -> None:
        """A follower that lost what it had committed (it runs without fsync, or is another server by now) says so."""
        done = sink.execute("SELECT count(*) FROM cdc.bootstrap_part WHERE run = %s", (self._run,)).fetchone()
        if done != (len(self.parts()) + sum(map(len, self.builds())),):
            raise RetryableError(
                "the follower has lost parts that it had committed",
                "see that it runs with fsync and is the same server all the time; then run the same command again, "
                "which starts anew",
                self._follower_name,
            )

    @property
    def _sink(self) -> psycopg.Connection:
        """It may have been lost while others copied: then nobody may have begun anew meanwhile, which `run` tells."""
        if self._follower is None:
            raise RuntimeError("begin() comes first")
        if not self._follower.closed:
            with suppress(psycopg.Error):
                self._follower.execute("SELECT 1")
        return self._connect() if self._follower.closed else self._follower


def copy_state(follower: psycopg.Connection, log_name: str) -> tuple[str, str | None]:
    """What a bootstrap before wrote down: none, unfinished or finished; and where its schema came from."""
    if follower.execute("SELECT to_regclass('cdc.bootstrap')").fetchone() == (None,):
        return "none", None
    row = follower.execute(
        "SELECT finished_at, coalesce(to_jsonb(b) ->> 'schema_choice', 'copy') FROM cdc.bootstrap b WHERE log = %s",
        (log_name,),
    ).fetchone()
    if row is None:
        return "none", None
    return "unfinished" if row[0] is None else "finished", row[1]


def _drop_everything(follower: psycopg.Connection) -> None:
    """Only ever called on a database that was empty when our copy began (cdc.bootstrap says so)."""
    rows = follower.execute(
        "SELECT nspname FROM pg_namespace WHERE nspname NOT IN ('information_schema', 'cdc') AND nspname !~ '^pg_'"
    ).fetchall()
    for (name,) in rows:
        follower.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(name)))
    newer = follower.info.server_version >= 150000
    follower.execute("CREATE SCHEMA public" + (" AUTHORIZATION pg_database_owner" if newer else ""))
    follower.execute(f"GRANT {'USAGE' if newer else 'ALL'} ON SCHEMA public TO PUBLIC")
