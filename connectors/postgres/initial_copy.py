"""Leader to follower for the first time: schema by pg_dump, rows by COPY, all from one exported snapshot."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import psycopg
import structlog
from psycopg import sql

from cdc.errors import CheckError, FencedError
from cdc.events.position import Position
from cdc.events.table import TableId
from cdc.ports import TableToCopy
from cdc.protocol.lsn import Lsn
from connectors.postgres.bookkeeping import follower_sql
from connectors.postgres.catalog import table_facts
from connectors.postgres.connection import connect, translated
from connectors.postgres.programs import ClientPrograms
from connectors.postgres.progress import timestamp
from connectors.postgres.read_only import BOOKKEEPING, make_read_only
from connectors.postgres.replication import ReplicationStream
from connectors.postgres.snapshot import request_descriptions, take_snapshot

log = structlog.get_logger(__name__)

_CHUNK_BYTES = 256 * 1024
_FIRST_UNSTABLE_OID = 16384
"""Types made by users have other OIDs in each database, and the binary form of arrays and composites names them."""
_BY_TEXT_ONLY = "^_?(reg|aclitem)"
"""Types whose binary form is such an OID (regclass and its kin: what they name has another one in each database), or
that have none."""

_LOCK_PATIENCE_SECONDS = 5.0
"""A predecessor that was killed leaves its backend behind for a moment."""

_FOREIGN_TABLES = """
SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
WHERE relkind IN ('r', 'p', 'v', 'm', 'f') AND nspname NOT IN ('information_schema', 'cdc') AND nspname !~ '^pg_'
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND deptype = 'e')
"""
_IDENTITY = """
SELECT (SELECT system_identifier FROM pg_control_system()), oid, datname
FROM pg_database WHERE datname = current_database()
"""
_PUBLISHED = """
SELECT schemaname, tablename, c.reltuples::bigint, pg_table_size(c.oid) FROM pg_publication_tables p
JOIN pg_namespace n ON nspname = schemaname JOIN pg_class c ON relnamespace = n.oid AND relname = tablename
WHERE pubname = %s ORDER BY 4 DESC, 1, 2
"""


class PostgresInitialCopy:
    """Implements `cdc.ports.InitialCopy`."""

    def __init__(
        self,
        leader_dsn: str,
        leader: str,
        follower_dsn: str,
        follower: str,
        publication: str,
        log_name: str,
    ) -> None:
        self._leader_dsn, self._leader_name = leader_dsn, leader
        self._follower_dsn, self._follower_name = follower_dsn, follower
        self._publication = publication
        self._log = log_name
        self._leader: psycopg.Connection | None = None
        self._follower: psycopg.Connection | None = None
        self._replication: ReplicationStream | None = None
        self._snapshot = ""
        self._tables: list[TableToCopy] = []
        self._after_data = ""

    def begin(self) -> bool:
        self._leader = connect(self._leader_dsn, f"cdc bootstrap {self._follower_name}", self._leader_name)
        self._follower = connect(self._follower_dsn, f"cdc bootstrap {self._follower_name}", self._follower_name)
        self._programs = ClientPrograms(self._leader.info.server_version // 10000)
        with translated(self._leader_name):
            self._check_publication(self._leader)
            identity = self._leader.execute(_IDENTITY).fetchone()
        with translated(self._follower_name):
            if self._follower.execute(_IDENTITY).fetchone() == identity:
                raise CheckError(
                    "leader and follower are the same database", "correct the dsn of one of them", self._follower_name
                )
            # Event triggers of the leader come with its schema: what we do here is not for them to note, or refuse.
            self._follower.execute("SET session_replication_role = replica")
            return self._claim(self._follower)

    def _check_publication(self, leader: psycopg.Connection) -> None:
        if not leader.execute("SELECT 1 FROM pg_publication WHERE pubname = %s", (self._publication,)).fetchone():
            raise CheckError(f"publication {self._publication} does not exist", "run: cdc init", self._leader_name)

    def _claim(self, follower: psycopg.Connection) -> bool:
        """Record that the copy began in an empty database; clear what an earlier try left."""
        self._take_lock(follower)
        state = self._earlier_copy(follower)
        if state == "finished":
            return False
        if state == "unfinished":
            log.warning("clearing an unfinished bootstrap", node=self._follower_name)
            _drop_everything(follower)
        row = follower.execute(_FOREIGN_TABLES).fetchone()
        if row and row[0]:
            raise CheckError(
                f"the database is not empty ({row[0]} tables and views)",
                "bootstrap needs an empty database: create one, or correct the dsn",
                self._follower_name,
            )
        follower.execute(follower_sql())
        follower.execute("INSERT INTO cdc.bootstrap (log) VALUES (%s) ON CONFLICT DO NOTHING", (self._log,))
        return True

    def _take_lock(self, follower: psycopg.Connection) -> None:
        """One bootstrap a follower, as it clears what looks unfinished. A session lock, gone with the connection."""
        deadline = time.monotonic() + _LOCK_PATIENCE_SECONDS
        query = "SELECT pg_try_advisory_lock(hashtextextended('cdc.bootstrap', 0))"
        while follower.execute(query).fetchone() != (True,):
            if time.monotonic() > deadline:
                raise FencedError("another bootstrap works on this follower", "let it end", self._follower_name)
            time.sleep(0.1)

    def _earlier_copy(self, follower: psycopg.Connection) -> str:
        if follower.execute("SELECT to_regclass('cdc.bootstrap')").fetchone() == (None,):
            return "none"
        row = follower.execute("SELECT finished_at FROM cdc.bootstrap WHERE log = %s", (self._log,)).fetchone()
        if row is None:
            return "none"
        return "unfinished" if row[0] is None else "finished"

    def request_descriptions(self) -> None:
        with translated(self._leader_name):
            request_descriptions(self._source)

    def open_snapshot(self) -> Lsn:
        self._replication = ReplicationStream(
            self._leader_dsn, f"cdc bootstrap {self._follower_name} snapshot", self._leader_name
        )
        with translated(self._leader_name):
            backend = self._source.info.backend_pid
            slot = f"{self._publication}_copy_{backend}"
            point, self._snapshot = take_snapshot(self._replication, self._source, slot)
            rows = self._source.execute(_PUBLISHED, (self._publication,)).fetchall()
        self._tables = [TableToCopy(TableId(schema, name), count, size) for schema, name, count, size in rows]
        return point

    def copy_schema_before_data(self) -> None:
        common = (f"--snapshot={self._snapshot}", "--schema-only", "--exclude-schema=cdc", "--no-publications",
                  "--no-subscriptions", "--no-tablespaces")  # fmt: skip
        before = self._programs.pg_dump(self._leader_dsn, self._leader_name, "--section=pre-data", *common)
        self._after_data = self._programs.pg_dump(self._leader_dsn, self._leader_name, "--section=post-data", *common)
        self._run_script(before)

    def copy_schema_after_data(self) -> None:
        self._run_script(self._after_data)

    def _run_script(self, script: str) -> None:
        if self._sink.info.server_version < 170000:
            script = script.replace("\nSET transaction_timeout = 0;\n", "\n", 1)
        self._programs.psql(self._follower_dsn, self._follower_name, script)

    def tables(self) -> Sequence[TableToCopy]:
        return self._tables

    def copy_table(self, table: TableId, progress: Callable[[int], None]) -> int:
        with translated(self._leader_name):
            facts = table_facts(self._source, table)
            if facts is None or facts.partitioned:
                return 0
            how = sql.SQL("(FORMAT binary)" if self._binary(table) else "(FORMAT text)")
        names = sql.SQL("({})").format(sql.SQL(", ").join(map(sql.Identifier, facts.columns)))
        parts = {"table": sql.Identifier(*table), "columns": names if facts.columns else sql.SQL(""), "how": how}
        read = sql.SQL("COPY {table} {columns} TO STDOUT {how}").format(**parts)
        write = sql.SQL("COPY {table} {columns} FROM STDIN {how}").format(**parts)
        with translated(f"{self._leader_name} to {self._follower_name}, table {table}"):
            return self._pipe(read, write, progress)

    def _binary(self, table: TableId) -> bool:
        row = self._source.execute(
            "SELECT coalesce(bool_and(t.oid < %s AND typname !~ %s), true) "
            "FROM pg_attribute JOIN pg_type t ON t.oid = atttypid WHERE attrelid = %s::regclass AND attnum > 0",
            (_FIRST_UNSTABLE_OID, _BY_TEXT_ONLY, sql.Identifier(*table).as_string(self._source)),
        ).fetchone()
        return bool(row and row[0])

    def _pipe(self, read: sql.Composed, write: sql.Composed, progress: Callable[[int], None]) -> int:
        """A chunk at a time, so that no table is ever held in memory."""
        with self._source.cursor() as source, self._sink.transaction(), self._sink.cursor() as sink:
            with source.copy(read) as rows, sink.copy(write) as target:
                chunk = bytearray()
                for row in rows:
                    chunk += row
                    if len(chunk) >= _CHUNK_BYTES:
                        target.write(bytes(chunk))
                        progress(len(chunk))
                        chunk.clear()
                target.write(bytes(chunk))
                progress(len(chunk))
            return sink.rowcount

    def finish(self, position: Position) -> None:
        sink = self._sink
        at = timestamp(position.committed_at_us)
        with translated(self._follower_name):
            self._source.rollback()
            with sink.transaction():
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
                sink.execute("UPDATE cdc.bootstrap SET finished_at = clock_timestamp() WHERE log = %s", (self._log,))
                make_read_only(sink, [*(t.table for t in self._tables), *BOOKKEEPING])
                sink.execute(
                    sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(
                        sql.Identifier(sink.info.dbname)
                    )
                )
            sink.execute("ANALYZE")

    def close(self) -> None:
        for connection in (self._replication, self._leader, self._follower):
            if connection is not None:
                connection.close()

    @property
    def _source(self) -> psycopg.Connection:
        if self._leader is None:
            raise RuntimeError("begin() comes first")
        return self._leader

    @property
    def _sink(self) -> psycopg.Connection:
        if self._follower is None:
            raise RuntimeError("begin() comes first")
        return self._follower


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
