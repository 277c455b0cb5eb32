"""The leader's end of a copy: the snapshot that all workers see, and the connection that keeps it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import psycopg
from psycopg import sql

from cdc.errors import CheckError, RetryableError
from cdc.events.table import TableId, TableSchema
from cdc.protocol.lsn import Lsn
from connectors.postgres.catalog import column_types
from connectors.postgres.connection import WatchedConnection, translated
from connectors.postgres.copy_plan import Source, published
from connectors.postgres.publication import check_whole
from connectors.postgres.replication import ReplicationStream
from connectors.postgres.sequences import last_values
from connectors.postgres.shape import as_described
from connectors.postgres.silence import connect_watched
from connectors.postgres.snapshot import request_descriptions, take_snapshot

_TRIES = 5
_LOCK_PATIENCE = "60s"
DATABASE_IDENTITY = """
SELECT (SELECT system_identifier FROM pg_control_system()), oid, datname
FROM pg_database WHERE datname = current_database()
"""
"""Differs between any two databases."""
_FILES = "SELECT oid::bigint, pg_relation_filenode(oid)::bigint FROM unnest(%s::oid[]) AS t (oid)"


class LeaderSnapshot:
    """`connect`, then `open` once; it lives until `close`, or until the connection is lost."""

    def __init__(self, dsn: str, leader: str, follower: str, publication: str) -> None:
        self._dsn = dsn
        self._leader = leader
        self._application_name = f"cdc bootstrap {follower}"
        self._publication = publication
        self._connection: WatchedConnection | None = None
        self.name = ""
        """By which others import it."""
        self.sources: Sequence[Source] = ()
        """The published tables as it shows them."""

    @property
    def connection(self) -> WatchedConnection:
        if self._connection is None:
            raise RuntimeError("connect() comes first")
        return self._connection

    @property
    def server_version(self) -> int:
        return self.connection.info.server_version

    def connect(self) -> None:
        self._connection = connect_watched(self._dsn, self._application_name, self._leader)

    def check_publication(self) -> None:
        """Raises CheckError when it is missing, or leaves out rows or columns that we would copy."""
        check_whole(self.connection, self._publication, self._leader)

    def check_other_database(self, follower: psycopg.Connection, node: str) -> None:
        """Raises CheckError when both are one; psycopg's errors as they are."""
        if follower.execute(DATABASE_IDENTITY).fetchone() == self.connection.execute(DATABASE_IDENTITY).fetchone():
            raise CheckError("leader and follower are the same database", "correct the dsn of one of them", node)

    def published(self) -> list[TableId]:
        with translated(self._leader):
            return [source.table for source in published(self.connection, self._publication)]

    def request_descriptions(self) -> None:
        with translated(self._leader):
            request_descriptions(self.connection)

    def open(self, wanted: Callable[[TableId], bool] = lambda _: True) -> Lsn:
        """The consistent point; only tables that are `wanted` are sources, and locked.

        TRUNCATE and whatever writes a table anew hide its rows from older snapshots, so every table is locked against
        that; and where it happened before the lock was there, another snapshot is taken.
        """
        for _ in range(_TRIES):
            point = self._take()
            if self._locked(wanted):
                return point
            self.connection.rollback()
        raise RetryableError(
            "tables are truncated or rewritten all the time", "repeat when that has ended", self._leader
        )

    def _take(self) -> Lsn:
        """The slot goes as soon as there is another exporter: it would keep WAL for as long as the copy takes."""
        slot = f"{self._publication}_copy_{self.connection.info.backend_pid}"
        with (
            ReplicationStream(self._dsn, f"{self._application_name} snapshot", self._leader) as stream,
            translated(self._leader),
        ):
            point, _ = take_snapshot(stream, self.connection, slot)
            row = self.connection.execute("SELECT pg_export_snapshot()").fetchone()
        self.name = row[0] if row else ""
        return point

    def _locked(self, wanted: Callable[[TableId], bool]) -> bool:
        """Whether the tables are locked and are still those that the snapshot shows."""
        connection = self.connection
        with translated(self._leader):
            self.sources = [s for s in published(connection, self._publication) if wanted(s.table)]
            if not self.sources:
                return True
            tables = sql.SQL(", ONLY ").join(sql.Identifier(*source.table) for source in self.sources)
            try:
                connection.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(_LOCK_PATIENCE)))
                connection.execute(sql.SQL("LOCK TABLE ONLY {} IN ACCESS SHARE MODE").format(tables))
                connection.execute("SET LOCAL lock_timeout = 0")
            except psycopg.errors.LockNotAvailable as error:
                raise RetryableError(
                    f"a table is locked for more than {_LOCK_PATIENCE} (ALTER TABLE, VACUUM FULL or the like)",
                    "see pg_locks; repeat when that has ended",
                    self._leader,
                ) from error
            except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
                return False
            files = dict(connection.execute(_FILES, ([source.oid for source in self.sources],)).fetchall())
        return all(files.get(source.oid) == source.file for source in self.sources)

    def shapes(self) -> list[TableSchema]:
        """Of the tables, as the log would describe them."""
        with translated(self._leader):
            types = column_types(self.connection, [source.oid for source in self.sources])
        return [as_described(source.table, types[source.oid]) for source in self.sources]

    def sequences(self) -> dict[TableId, int]:
        """The last values as they are now; no snapshot knows them."""
        with translated(self._leader):
            return last_values(self.connection)

    def check(self) -> None:
        """Raises RetryableError when the connection, and the snapshot with it, is gone."""
        try:
            with translated(self._leader):
                self.connection.execute("SELECT 1")
        except RetryableError as error:
            raise RetryableError(
                f"the connection that held the snapshot is lost: {error.what}",
                "run the same command again; it clears what was copied and starts anew, with another snapshot",
                self._leader,
            ) from error

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
