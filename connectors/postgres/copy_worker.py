"""One worker of a copy: rows from the leader's snapshot into the follower, and the note of it, in one transaction.

HOT PATH: `_chunks`. A row is a message of its own; psycopg's loop over them costs more than the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from psycopg import sql
from psycopg.errors import error_from_result
from psycopg.generators import fetch_many
from psycopg.pq import ExecStatus
from psycopg.waiting import Ready, Wait

from cdc.copy_ports import Build, Part
from cdc.errors import CheckError, FencedError, TerminalError
from cdc.events.table import TableId
from connectors.postgres.connection import WatchedConnection, translated
from connectors.postgres.copy_data import CopyData
from connectors.postgres.copy_plan import CopyStatements
from connectors.postgres.silence import connect_watched

_CHUNK_BYTES = 256 * 1024
_SOURCE = """
BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY;
SET TRANSACTION SNAPSHOT {}
"""
_SINK = """
SET session_replication_role = replica;
SET synchronous_commit = local;
SET client_connection_check_interval = '2s'
"""
"""A part that is told as done is not done again, so a crash of the follower must not take it back, whatever is set
there. It is one wait for the disk in 16 MB."""


@contextmanager
def _may_be_repeated(where: str) -> Iterator[None]:
    """What a server refuses here has neither lost nor doubled a row: the copy can be run again."""
    try:
        with translated(where):
            yield
    except FencedError:
        raise
    except TerminalError as error:
        raise CheckError(error.what, "remove the cause, see the log of the server, and run it again", where) from error


@dataclass(frozen=True, slots=True)
class CopyEnds:
    """Where a copy goes from and to. `run` names it in the follower's bookkeeping: no other may have begun."""

    leader_dsn: str
    leader: str
    follower_dsn: str
    follower: str
    snapshot: str
    log: str
    run: str

    @property
    def application_name(self) -> str:
        return f"cdc bootstrap {self.follower} copies"


class PostgresCopyWorker:
    """Implements `cdc.copy_ports.CopyWorker`."""

    def __init__(self, ends: CopyEnds, statements: Mapping[TableId, CopyStatements]) -> None:
        self._ends = ends
        self._statements = statements
        self._source: WatchedConnection | None = None
        self._sink = connect_watched(ends.follower_dsn, ends.application_name, ends.follower)
        with translated(ends.follower):
            self._sink.execute(_SINK)

    def _snapshot(self) -> WatchedConnection:
        """Only rows need it."""
        if self._source is None:
            ends = self._ends
            self._source = connect_watched(ends.leader_dsn, ends.application_name, ends.leader)
            with translated(ends.leader):
                self._source.execute(sql.SQL(_SOURCE).format(sql.Literal(ends.snapshot)))
        return self._source

    def copy(self, part: Part, progress: Callable[[int, int], None]) -> int:
        name = f"rows {part.number} {part.table}"
        source, statement = self._snapshot(), self._statements[part.table]
        way = f"{self._ends.leader} to {self._ends.follower}, table {part.table}"
        with _may_be_repeated(way), self._sink.transaction():
            if not self._note(name):
                return self._rows_of(name)
            rows = pipe(source, self._sink, statement.read(part), statement.write(), progress)
            self._sink.execute(
                "UPDATE cdc.bootstrap_part SET rows = %s WHERE run = %s AND part = %s", (rows, self._ends.run, name)
            )
        return rows

    def build(self, build: Build) -> None:
        where = f"{self._ends.follower}, {build.kind.lower()} {build.name}"
        with _may_be_repeated(where), self._sink.transaction():
            if self._note(f"build {build.number}"):
                self._sink.execute(build.statement.encode())

    def _note(self, part: str) -> bool:
        """In a transaction of the follower: note `part` as done. False when it is."""
        # Whoever begins another copy waits for us here, and we find out that it did.
        ours = self._sink.execute(
            "SELECT FROM cdc.bootstrap WHERE log = %s AND run = %s AND finished_at IS NULL FOR SHARE",
            (self._ends.log, self._ends.run),
        ).fetchone()
        if ours is None:
            raise FencedError("another bootstrap has begun on this follower", "let it end", self._ends.follower)
        # First of all: a worker whose connection was lost may still be at it, or may have committed.
        noted = self._sink.execute(
            "INSERT INTO cdc.bootstrap_part (run, part) VALUES (%s, %s) ON CONFLICT DO NOTHING", (self._ends.run, part)
        )
        return noted.rowcount == 1

    def _rows_of(self, part: str) -> int:
        row = self._sink.execute(
            "SELECT rows FROM cdc.bootstrap_part WHERE run = %s AND part = %s", (self._ends.run, part)
        ).fetchone()
        return int(row[0]) if row else 0

    def close(self) -> None:
        if self._source is not None:
            self._source.close()
        self._sink.close()


def pipe(
    source: WatchedConnection,
    sink: WatchedConnection,
    read: sql.Composed,
    write: sql.Composed,
    progress: Callable[[int, int], None],
) -> int:
    """COPY out of one and into the other, a chunk at a time, so that no table is ever held in memory; its rows."""
    rows = size = 0
    with source.cursor() as reader, sink.cursor() as writer:
        with reader.copy(read), writer.copy(write) as target:
            ended = False
            while not ended:
                messages, chunk, ended = source.wait(_chunk(source))
                target.write(chunk)
                rows += messages
                size += len(chunk)
                progress(rows, size)
        return max(0, writer.rowcount)


def _chunk(source: psycopg.Connection) -> Generator[Wait, Ready, tuple[int, bytes, bool]]:
    """Number of messages, what is in them, and whether it was the last."""
    copied = CopyData(source.pgconn)
    messages: list[bytes] = []
    size = 0
    while size < _CHUNK_BYTES:
        answer, taken = copied.take(messages, _CHUNK_BYTES - size)
        size += taken
        if answer == 0:
            while not (yield Wait.R):
                pass
        elif answer < 0:
            result = (yield from fetch_many(source.pgconn))[0]
            if result.status != ExecStatus.COMMAND_OK:
                raise error_from_result(result)
            return len(messages), b"".join(messages), True
    return len(messages), b"".join(messages), False
