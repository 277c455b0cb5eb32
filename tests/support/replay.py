"""A leader and followers without Kafka and without processes: our decoder, encoder and applier in this one."""

from __future__ import annotations

import gc
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from unittest import mock

import psycopg

from cdc.events.assembler import Assembler, Resume
from cdc.log.compiled import ChangeReader
from cdc.log.envelope import Envelope, finished
from cdc.protocol.lsn import Lsn
from cdc.services.apply import ALIKE_BEFORE_RUN, ApplyLimits, ApplyService
from cdc.services.replay import SMALL_SEGMENT
from cdc.stop import StopToken
from connectors.postgres.connection import connect
from connectors.postgres.leader import Leader
from connectors.postgres.target import ROWS_IN_ARRAYS, PostgresTarget
from tests.support.pipeline import run_sql

SLOT = "sets"
LOG = "test.log"


class LeaderInTest:
    """A leader whose changes are read by SQL from a slot, and made into records of the log by capture's own parts.

    All its tables are in the schema public, and the same on its followers.
    """

    def __init__(self, dsn: str, tables: Sequence[str]) -> None:
        self.dsn = dsn
        self._tables = ", ".join(f"public.{name}" for name in tables)
        run_sql(
            dsn,
            f"CREATE PUBLICATION {SLOT} FOR ALL TABLES",
            f"SELECT pg_create_logical_replication_slot('{SLOT}', 'pgoutput')",
        )
        with Leader(dsn, "test", "leader") as leader:
            self._types = leader.type_names()
        self._connection = connect(dsn, "test", "leader")

    def close(self) -> None:
        self._connection.close()

    def empty(self) -> Lsn:
        """Forget all rows and changes; the LSN from which on there is nothing."""
        self._connection.execute(f"TRUNCATE {self._tables}")
        self._changes()
        row = self._connection.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
        assert row is not None
        return Lsn.parse(row[0])

    def run(self, statements: Sequence[str]) -> None:
        """One transaction; a statement that a constraint refuses is rolled back alone."""
        with psycopg.connect(self.dsn) as connection:
            for text in statements:
                try:
                    with connection.transaction():
                        connection.execute(text)
                except (psycopg.errors.IntegrityError, psycopg.errors.InvalidTextRepresentation):
                    pass
            try:
                connection.commit()
            except psycopg.errors.IntegrityError:
                connection.rollback()

    def records(self, start: Lsn) -> list[bytes]:
        """What capture would publish of everything after `start`."""
        assembler = Assembler(
            Envelope("test", "test", "0", 1), finished, self._types, Resume(Lsn(start - 1), start, Lsn(0), 0), lambda: 0
        )
        return [value for _, value in assembler.feed(self._changes())]

    def _changes(self) -> list[bytes]:
        rows = self._connection.execute(
            "SELECT lsn - '0/0'::pg_lsn, data FROM pg_logical_slot_get_binary_changes(%s, NULL, NULL, "
            "'proto_version', '1', 'publication_names', %s, 'messages', 'true')",
            (SLOT, SLOT),
        ).fetchall()
        return [struct.pack(">cQQq", b"w", int(lsn), int(lsn), 0) + bytes(data) for lsn, data in rows]


class Record:
    """As the Kafka client hands it out."""

    def __init__(self, offset: int, value: bytes) -> None:
        self._offset, self._value = offset, value

    def offset(self) -> int:
        return self._offset

    def value(self) -> bytes:
        return self._value


class RecordedLog:
    """A log that is complete, and stops its reader at the end."""

    def __init__(self, values: Sequence[bytes], stop: StopToken) -> None:
        self._records = [Record(offset, value) for offset, value in enumerate(values)]
        self._stop = stop
        self._next = 0

    def seek(self, offset: int) -> None:
        self._next = offset

    def watermarks(self) -> tuple[int, int]:
        return 0, len(self._records)

    def known_end(self) -> int:
        return len(self._records)

    def read_tail(self, *, depth_bytes: int = 0) -> None:
        return None

    def consume(self, limit: int, timeout: float) -> list[Record]:
        found = self._records[self._next : self._next + limit]
        self._next += len(found)
        if not found and timeout:
            self._stop.set()
        return found

    def close(self) -> None:
        return


class FollowerInTest:
    """A follower that takes a recorded log. Up to `small_segment` changes a table go one by one; `sets` counts others.
    Of these, up to `rows_in_arrays` rows a table go as arrays.

    Where all go as sets, and nothing is compiled, each record that may begin a run (cdc/log/runs.py) does.
    """

    def __init__(
        self, dsn: str, tables: Sequence[str], small_segment: int = SMALL_SEGMENT, is_compiled: bool = True
    ) -> None:
        """`is_compiled` where it can be."""
        self.dsn = dsn
        self._change_reader = ChangeReader if is_compiled else None
        self.sets = 0
        self.rows_in_arrays = ROWS_IN_ARRAYS
        self._tables = ", ".join(tables)
        self._small_segment = small_segment
        run_sql(
            dsn,
            resources.files("connectors.postgres").joinpath("sql/follower.sql").read_text("utf-8"),
            f"INSERT INTO cdc.position VALUES ('{LOG}', 1, '0/0', '0/0', now(), 0)",
        )

    def empty(self, start: Lsn) -> None:
        run_sql(
            self.dsn,
            "SET session_replication_role = replica",
            f"TRUNCATE {self._tables}",
            f"UPDATE cdc.position SET commit_lsn = '{Lsn(start - 1)}', end_lsn = '{start}', next_offset = 0",
        )

    def apply(self, values: Sequence[bytes], limits: ApplyLimits | None = None) -> None:
        stop = StopToken()
        target = PostgresTarget(self.dsn, "follower", LOG, stop.wait)
        service = ApplyService(lambda: RecordedLog(values, stop), target, "follower", limits)
        with (
            mock.patch("cdc.services.replay.SMALL_SEGMENT", self._small_segment),
            mock.patch("connectors.postgres.target.ROWS_IN_ARRAYS", self.rows_in_arrays),
            mock.patch("cdc.services.apply.ALIKE_BEFORE_RUN", ALIKE_BEFORE_RUN if self._small_segment else 0),
            mock.patch("cdc.services.apply.ChangeReader", self._change_reader),
            mock.patch.object(target, "apply_sets", wraps=target.apply_sets) as apply_sets,
        ):
            service.run(stop)
        self.sets += sum(len(call.args[0]) for call in apply_sets.call_args_list)


@contextmanager
def collector_as_it_was() -> Iterator[None]:
    """The applier sets the garbage collector up for a process of its own."""
    before = gc.get_threshold()
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
