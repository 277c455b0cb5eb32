"""The replication connection: the only user of libpq's raw connection (psycopg has no replication API).

HOT PATH: `read` hands on the bytes that libpq gives, one object a message (`copy_data.py`).

Once the stream has started, nothing here waits for the server for longer than the caller allows, but for 75 ms where
messages come fast (`pace.py`): reading waits on the socket, sending goes through libpq's own buffer.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import islice
from types import TracebackType
from typing import Self

import psycopg
from psycopg import sql
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGresult

from cdc.capture_ports import SystemFacts
from cdc.errors import NEW_GROUP, CdcError, ProtocolError, RetryableError, SlotError
from cdc.protocol.frames import KEEPALIVE_SIZE, XLOG_HEADER_SIZE, StandbyStatusUpdate, xlog_sent_at
from cdc.protocol.lsn import Lsn
from cdc.protocol.pgoutput import COMMIT, NOT_UTF8_REMEDY, decode_commit
from connectors.postgres.connection import ANSWER_SECONDS, open_connection
from connectors.postgres.copy_data import CopyData
from connectors.postgres.errors import decoding_error, slot_error, translate
from connectors.postgres.pace import Pace
from connectors.postgres.silence import SilenceWatch

_SLOT_SECONDS = 300.0
"""A slot waits for the transactions that are running."""
_MAX_FRAMES = 4000
"""A batch of small rows: more objects at once only make the garbage collector work."""
_COMMIT_AMONG = 64
"""The newest messages of a read, unless their transaction is large."""


class ReplicationStream:
    """One replication connection to one database. Not thread-safe; `close` it, or leave the `with`."""

    def __init__(self, dsn: str, application_name: str, where: str) -> None:
        """Connects. Raises CheckError when the server refuses us, RetryableError when it is not there."""
        self._dsn = dsn
        self._where = where
        self._slot = self._publication = ""
        try:
            self._connection = open_connection(dsn, application_name, ANSWER_SECONDS, replication="database")
        except psycopg.Error as error:
            raise translate(error, where) from error
        self._conn = self._connection.pgconn
        self._copied = CopyData(self._conn)
        self.backend_pid = self._conn.backend_pid
        self._pace = Pace(self._conn.socket, bool(self._conn.ssl_in_use or self._conn.used_gssapi))
        self._told = (0, 0, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def identify(self) -> SystemFacts:
        """Which cluster this is, on which timeline, and how far its WAL is flushed."""
        row = self._row(sql.SQL("IDENTIFY_SYSTEM"), ANSWER_SECONDS)
        return SystemFacts(row[0], int(row[1]), Lsn.parse(row[2]))

    def start(self, slot: str, publication: str, start_lsn: int) -> None:
        """Begin to stream from `start_lsn`, or from where the slot is if that is later.

        Raises FencedError when the slot is in use, SlotError when it is missing or lost.
        """
        self._slot, self._publication = slot, publication
        command = sql.SQL(
            "START_REPLICATION SLOT {slot} LOGICAL {lsn} "
            "(proto_version '1', publication_names {publications}, messages 'true')"
        ).format(
            slot=sql.Identifier(slot),
            lsn=sql.SQL(str(Lsn(start_lsn))),
            publications=sql.Literal(sql.Identifier(publication).as_string(None)),
        )
        result = self._run(command, ANSWER_SECONDS)
        if result.status != ExecStatus.COPY_BOTH:
            raise self._error(result)
        self._conn.nonblocking = 1

    def read(self, max_bytes: int, timeout: float) -> list[bytes]:
        """CopyData payloads in order: what has arrived, up to about `max_bytes` and some thousand payloads.

        Waits at most `timeout` seconds for the first, and up to 75 ms more where it `gathers`; there it may leave the
        newest, and return nothing sooner. Raises RetryableError when the connection or the stream has ended.
        """
        frames: list[bytes] = []
        size = 0
        caught_up = False
        deadline = time.monotonic() + timeout
        try:
            self._pace.gather()
            while True:
                answer, taken = self._copied.take(frames, max_bytes - size, _MAX_FRAMES - len(frames))
                size += taken
                if answer < 0:
                    raise self._ended()
                if self._pace.holds:
                    self._pace.let_go()
                # A message may have come in part, of which by TLS libpq took a piece.
                rest = 0.0 if frames else max(0.0, deadline - time.monotonic())
                if self._pace.needs_commits and (commit := _newest_commit(frames)):
                    self._pace.note_commit(*commit)
                caught_up = self._pace.has_caught_up
                if answer > 0 or caught_up or self._pace.enough or not self._pace.comes(rest):
                    break
            # Where a walsender falls asleep often, keepalives are half of all, which nobody needs to gather.
            keepalives = list(map(len, frames)).count(KEEPALIVE_SIZE)
            self._pace.note(len(frames), keepalives, size, emptied=answer == 0)
            if caught_up and answer == 0 and self._conn.flush() == 0:
                self._pace.hold(self._status(ask=False))
        except psycopg.Error as error:
            raise self._translate(error) from error
        except OSError as error:
            raise RetryableError("the connection is lost", where=self._where) from error
        return frames

    @property
    def gathers(self) -> bool:
        """Whether a `read` that begins now lets messages come together first, because they come fast."""
        return self._pace.gathers

    def send_status(self, written: int, flushed: int, applied: int, ask: bool = False) -> None:
        """Tell the server how far we are; a zero says nothing. `flushed` moves the slot. `ask` for an answer.

        Does not wait: what the socket does not take now leaves with the next call.
        """
        self._told = written, flushed, applied
        try:
            self._conn.put_copy_data(self._status(ask))
            self._conn.flush()
        except psycopg.Error as error:
            raise self._translate(error) from error

    def _status(self, ask: bool) -> bytes:
        """What was told last."""
        return StandbyStatusUpdate(*self._told, time.time_ns() // 1000, ask).encode()

    def create_temporary_slot_with_snapshot(self, name: str) -> tuple[Lsn, str]:
        """(consistent point, name of the exported snapshot). Both live as long as this connection does
        nothing else and stays open.

        Waits for the transactions that are running. Raises RetryableError when they do not end in time.
        """
        self._slot = name
        old = self._conn.server_version < 150000
        command = sql.SQL("CREATE_REPLICATION_SLOT {slot} TEMPORARY LOGICAL pgoutput {option}").format(
            slot=sql.Identifier(name),
            option=sql.SQL("EXPORT_SNAPSHOT" if old else "(SNAPSHOT 'export')"),
        )
        row = self._row(command, _SLOT_SECONDS)
        return Lsn.parse(row[1]), row[2]

    def close(self) -> None:
        """Ends the connection; what was sent before is still read by the server."""
        self._pace.close()
        self._connection.close()

    def _row(self, command: sql.Composable, timeout: float) -> list[str]:
        """The only row that `command` answers with."""
        result = self._run(command, timeout)
        if result.status != ExecStatus.TUPLES_OK or result.ntuples != 1:
            raise self._error(result)
        return [(result.get_value(0, column) or b"").decode() for column in range(result.nfields)]

    def _run(self, command: sql.Composable, timeout: float) -> PGresult:
        """The first result of `command`; nothing of it is left to read, unless it is a stream."""
        conn = self._conn
        first: PGresult | None = None
        try:
            conn.send_query(command.as_bytes(None))
            while True:
                while conn.is_busy():
                    self._await_answer(timeout)
                    conn.consume_input()
                result = conn.get_result()
                if result is None and first is not None:
                    return first
                if result is None:
                    raise RetryableError("the server answered nothing", where=self._where)
                first = first or result
                if result.status == ExecStatus.COPY_BOTH:
                    return result
        except psycopg.Error as error:
            raise self._translate(error) from error

    def _await_answer(self, timeout: float) -> None:
        """Who may rightly be silent for longer than `ANSWER_SECONDS` is asked whether it still works."""
        began = time.monotonic()
        watch = SilenceWatch(self._dsn, self._connection, self._where) if timeout > ANSWER_SECONDS else None
        silent = 0.0
        while not self._pace.ready(min(self._connection.silence_seconds, timeout - silent)):
            silent = time.monotonic() - began
            if silent >= timeout:
                raise self._too_slow(timeout)
            if watch is not None:
                watch(silent)

    def _ended(self) -> CdcError:
        """Why there is nothing more to copy: the server's error, or its orderly end."""
        result = self._conn.get_result()
        if result is not None and result.status == ExecStatus.FATAL_ERROR:
            error = error_from_result(result)
            if error.sqlstate == "42704":
                return SlotError(
                    f"publication {self._publication} did not exist where slot {self._slot} is",
                    f"it was dropped, and what was published meanwhile is unknown: {NEW_GROUP}",
                    self._where,
                )
            if error.sqlstate in ("22021", "22P05"):  # the server of another encoding finds it before we do
                return ProtocolError(
                    f"a row holds text that is not UTF-8 ({error.sqlstate})", NOT_UTF8_REMEDY, self._where
                )
            return decoding_error(error, self._where)
        return RetryableError("the server ended the replication stream", where=self._where)

    def _error(self, result: PGresult) -> CdcError:
        return self._translate(error_from_result(result))

    def _translate(self, error: psycopg.Error) -> CdcError:
        return slot_error(error, self._where, self._slot) if self._slot else translate(error, self._where)

    def _too_slow(self, timeout: float) -> CdcError:
        self.close()
        return RetryableError(
            f"the server did not answer in {timeout:.0f} s",
            "end transactions that stay open: a new slot waits for them"
            if timeout == _SLOT_SECONDS
            else "see that it runs and can be reached",
            self._where,
        )


def _newest_commit(frames: Sequence[bytes]) -> tuple[float, float] | None:
    """When it was committed and when that was sent, in seconds since 1970; None when it is not among the last few
    messages."""
    for frame in islice(reversed(frames), _COMMIT_AMONG):
        if len(frame) > XLOG_HEADER_SIZE and frame[XLOG_HEADER_SIZE] == COMMIT:
            return decode_commit(frame, XLOG_HEADER_SIZE)[2] / 1e6, xlog_sent_at(frame) / 1e6
    return None
