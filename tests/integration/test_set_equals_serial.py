"""Random transactions: applied as sets, applied one by one, and on the leader, the rows come to the same.

The leader's WAL goes through our decoder and encoder; the two followers take the very same records.
"""

from __future__ import annotations

import gc
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import resources
from unittest import mock

import psycopg
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from cdc.events.assembler import Assembler, Resume
from cdc.local import PostgresServer
from cdc.log.envelope import Envelope, finished
from cdc.protocol.lsn import Lsn
from cdc.services.apply import ApplyLimits, ApplyService
from cdc.stop import StopToken
from connectors.postgres.connection import connect
from connectors.postgres.leader import Leader
from connectors.postgres.target import PostgresTarget
from tests.support.contents import contents, digests
from tests.support.pipeline import run_sql

EXAMPLES = 25
SLOT = "sets"
LOG = "test.log"
NOISE = (
    "CREATE FUNCTION noise(seed int) RETURNS text LANGUAGE sql AS $$ "
    "SELECT string_agg(md5(seed || '/' || g), '') FROM generate_series(1, 80) g $$"
)
TABLES = """
CREATE TABLE plain (id int PRIMARY KEY, v int, big text);
CREATE TABLE two_columns (a int, b text, v int, big text, PRIMARY KEY (a, b));
CREATE TABLE equal_keys (id numeric PRIMARY KEY, v int);
CREATE TABLE swap (id int PRIMARY KEY, u int UNIQUE, big text);
CREATE TABLE later (id int PRIMARY KEY, u int UNIQUE DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE apart (id int PRIMARY KEY, r int4range, EXCLUDE USING gist (r WITH &&));
CREATE TABLE by_index (id int PRIMARY KEY, k int NOT NULL, v int, big text);
CREATE UNIQUE INDEX by_index_k ON by_index (k);
ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_k;
CREATE TABLE whole (a int, b text, big text);
ALTER TABLE whole REPLICA IDENTITY FULL;
CREATE TABLE whole_key (id int PRIMARY KEY, v int, big text);
ALTER TABLE whole_key REPLICA IDENTITY FULL;
CREATE TABLE part (id int, r int, v int, PRIMARY KEY (id, r)) PARTITION BY LIST (r);
CREATE TABLE part_even PARTITION OF part FOR VALUES IN (0, 2, 4);
CREATE TABLE part_odd PARTITION OF part FOR VALUES IN (1, 3, 5);
CREATE TABLE always (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v int, w int GENERATED ALWAYS AS (v * 2) STORED);
"""
EXTERNAL = ("plain", "two_columns", "swap", "by_index", "whole", "whole_key")
NAMES = (*EXTERNAL, "equal_keys", "later", "apart", "part", "always")
FIRST_ROWS = (
    "INSERT INTO plain SELECT i, i, noise(i) FROM generate_series(0, 3) i",
    "INSERT INTO two_columns SELECT i, i % 2, i, noise(i) FROM generate_series(0, 3) i",
    "INSERT INTO equal_keys SELECT i, i FROM generate_series(0, 3) i",
    "INSERT INTO swap SELECT i, i, noise(i) FROM generate_series(0, 3) i",
    "INSERT INTO later SELECT i, i FROM generate_series(0, 3) i",
    "INSERT INTO by_index SELECT i, i, i, noise(i) FROM generate_series(0, 3) i",
    "INSERT INTO whole_key SELECT i, i, noise(i) FROM generate_series(0, 3) i",
    "INSERT INTO part SELECT i, i, i FROM generate_series(0, 3) i",
    "INSERT INTO always OVERRIDING SYSTEM VALUE SELECT i, i FROM generate_series(0, 3) i",
)

# :k and :j are small numbers that name rows, :x is a value. What a constraint refuses is as if it had not been.
STATEMENTS = (
    "INSERT INTO plain VALUES (:k, :x, noise(:x))",
    "UPDATE plain SET v = :x WHERE id = :k",
    "UPDATE plain SET big = noise(:x) WHERE id = :k",
    "UPDATE plain SET id = :j WHERE id = :k",
    "UPDATE plain SET id = :j, big = 'short' WHERE id = :k",
    "DELETE FROM plain WHERE id = :k",
    "UPDATE plain SET v = v + 1",
    "UPDATE plain SET id = id + 1",
    "INSERT INTO two_columns VALUES (:k, :j, :x, noise(:x))",
    "UPDATE two_columns SET v = :x WHERE a = :k",
    "UPDATE two_columns SET b = :x WHERE a = :k",
    "UPDATE two_columns SET a = :j, big = NULL WHERE a = :k",
    "DELETE FROM two_columns WHERE a = :k",
    "INSERT INTO equal_keys VALUES (:k, :x)",
    "INSERT INTO equal_keys VALUES (:k.0, :x)",
    "UPDATE equal_keys SET id = id + 0.00, v = :x WHERE id = :k",
    "UPDATE equal_keys SET id = :j WHERE id = :k",
    "DELETE FROM equal_keys WHERE id = :k",
    "INSERT INTO swap VALUES (:k, :j, noise(:x))",
    "UPDATE swap SET u = :j WHERE id = :k",
    "UPDATE swap SET u = -u",
    "UPDATE swap SET id = :j WHERE id = :k",
    "UPDATE swap SET u = NULL WHERE id = :k",
    "DELETE FROM swap WHERE u = :j",
    "INSERT INTO later VALUES (:k, :j)",
    "UPDATE later SET u = 5 - u",
    "UPDATE later SET id = :j WHERE id = :k",
    "DELETE FROM later WHERE id = :k",
    "INSERT INTO apart VALUES (:k, int4range(:j, :j + 2))",
    "UPDATE apart SET r = int4range(:j, :j + 2) WHERE id = :k",
    "DELETE FROM apart WHERE id = :k",
    "INSERT INTO by_index VALUES (:k, :j, :x, noise(:x))",
    "UPDATE by_index SET k = :j WHERE id = :k",
    "UPDATE by_index SET id = :j WHERE id = :k",
    "UPDATE by_index SET v = :x WHERE k = :k",
    "DELETE FROM by_index WHERE k = :k",
    "INSERT INTO whole VALUES (:k, :j, noise(:x)), (:k, NULL, 'same'), (:k, NULL, 'same')",
    "UPDATE whole SET b = :x WHERE ctid = (SELECT ctid FROM whole WHERE a = :k LIMIT 1)",
    "UPDATE whole SET a = :j WHERE a = :k",
    "DELETE FROM whole WHERE ctid = (SELECT ctid FROM whole WHERE a = :k LIMIT 1)",
    "INSERT INTO whole_key VALUES (:k, :x, noise(:x))",
    "UPDATE whole_key SET v = :x WHERE id = :k",
    "UPDATE whole_key SET id = :j WHERE id = :k",
    "DELETE FROM whole_key WHERE id = :k",
    "INSERT INTO part VALUES (:k, :j, :x)",
    "UPDATE part SET r = :x, v = :j WHERE id = :k",
    "UPDATE part SET id = :j WHERE id = :k",
    "DELETE FROM part WHERE id = :k",
    "INSERT INTO always OVERRIDING SYSTEM VALUE VALUES (:k, :x)",
    "UPDATE always SET v = :x WHERE id = :k",
    "UPDATE always SET id = DEFAULT WHERE id = :k",
    "DELETE FROM always WHERE id = :k",
    "SELECT pg_logical_emit_message(:x % 2 = 0, 'test', 'x')",
)
RARE = (
    "TRUNCATE plain",
    "TRUNCATE whole, swap RESTART IDENTITY CASCADE",
    "TRUNCATE part",
    "ALTER TABLE whole_key REPLICA IDENTITY DEFAULT",
    "ALTER TABLE whole_key REPLICA IDENTITY FULL",
)


def _statement(template: str, k: int, j: int, x: int) -> str:
    return template.replace(":k", str(k)).replace(":j", str(j)).replace(":x", str(x))


small = st.integers(0, 5)
statement = st.builds(_statement, st.sampled_from(STATEMENTS), small, small, small)
rare_statement = st.builds(_statement, st.sampled_from(RARE), small, small, small)
transaction = st.lists(st.one_of(*[statement] * 19, rare_statement), min_size=3, max_size=25)
transactions = st.lists(transaction, min_size=2, max_size=6)
limits = st.builds(ApplyLimits, rows=st.sampled_from([1, 7, 10_000]), fetch=st.sampled_from([3, 2_000]))


class LeaderInTest:
    """A leader whose changes are read by SQL from a slot, and made into records of the log by capture's own parts."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
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
        self._connection.execute("TRUNCATE " + ", ".join(f"public.{name}" for name in NAMES))
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

    def read_tail(self) -> None:
        return None

    def consume(self, limit: int, timeout: float) -> list[Record]:
        found = self._records[self._next : self._next + limit]
        self._next += len(found)
        if not found:
            self._stop.set()
        return found

    def close(self) -> None:
        return


class FollowerInTest:
    """A follower that takes a recorded log: all by sets, or all one by one."""

    def __init__(self, dsn: str, small_segment: int) -> None:
        self.dsn = dsn
        self.sets = 0
        self._small_segment = small_segment
        run_sql(
            dsn,
            resources.files("connectors.postgres").joinpath("sql/follower.sql").read_text("utf-8"),
            f"INSERT INTO cdc.position VALUES ('{LOG}', 1, '0/0', '0/0', now(), 0)",
        )

    def empty(self, start: Lsn) -> None:
        run_sql(
            self.dsn,
            "TRUNCATE " + ", ".join(NAMES),
            f"UPDATE cdc.position SET commit_lsn = '{Lsn(start - 1)}', end_lsn = '{start}', next_offset = 0",
        )

    def apply(self, values: Sequence[bytes], limits: ApplyLimits) -> None:
        stop = StopToken()
        target = PostgresTarget(self.dsn, "follower", LOG, stop.wait)
        service = ApplyService(lambda: RecordedLog(values, stop), target, limits)
        with (
            mock.patch("cdc.services.apply.SMALL_SEGMENT", self._small_segment),
            mock.patch.object(target, "apply_net", wraps=target.apply_net) as apply_net,
        ):
            service.run(stop)
        self.sets += apply_net.call_count


@contextmanager
def collector_as_it_was() -> Iterator[None]:
    """The applier sets the garbage collector up for a process of its own."""
    before = gc.get_threshold()
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def first_difference(leader: str, follower: str) -> str | None:
    expected, found = digests(leader, "public."), digests(follower, "public.")
    for table in expected:
        if expected[table] != found[table]:
            return f"{table}: {contents(leader, table)} became {contents(follower, table)}"
    return None


@pytest.fixture
def databases(
    leader_server: PostgresServer, follower_server: PostgresServer, new_database: Callable[[PostgresServer], str]
) -> list[str]:
    """The dsns of a leader and two followers with the same empty tables."""
    dsns = [new_database(leader_server), new_database(follower_server), new_database(follower_server)]
    external = [f"ALTER TABLE {name} ALTER big SET STORAGE EXTERNAL" for name in EXTERNAL]
    for dsn in dsns:
        run_sql(dsn, NOISE, TABLES, *external)
    return dsns


def test_sets_come_to_the_same_as_serial_replay_and_as_the_leader(databases: list[str], postgres_version: int):
    with ExitStack() as stack:
        stack.enter_context(collector_as_it_was())
        leader = LeaderInTest(databases[0])
        stack.callback(leader.close)
        by_sets, serial = FollowerInTest(databases[1], 0), FollowerInTest(databases[2], 10**9)

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            print_blob=True,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
        )
        @given(transactions, limits)
        def check(transactions: list[list[str]], limits: ApplyLimits) -> None:
            # Given empty tables, when the leader runs the transactions and both followers take its log.
            start = leader.empty()
            for follower in (by_sets, serial):
                follower.empty(start)
            for statements in (FIRST_ROWS, *transactions):
                leader.run(statements)
            values = leader.records(start)
            note(f"{len(values)} records")
            by_sets.apply(values, limits)
            serial.apply(values, ApplyLimits())

            # Then all three hold the same.
            assert first_difference(leader.dsn, serial.dsn) is None
            assert first_difference(leader.dsn, by_sets.dsn) is None

        check()
        assert by_sets.sets > 5 * EXAMPLES
        assert serial.sets == 0
