"""Random transactions: applied as sets, applied one by one, and on the leader, the rows come to the same.

The leader's WAL goes through our decoder and encoder; the two followers take the very same records.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from cdc.local import PostgresServer
from cdc.services.apply import ApplyLimits
from connectors.postgres.target import ROWS_IN_ARRAYS
from tests.support.contents import contents, digests
from tests.support.pipeline import run_sql
from tests.support.replay import FollowerInTest, LeaderInTest, collector_as_it_was

EXAMPLES = 25
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
    """The dsns of a leader and three followers with the same empty tables."""
    dsns = [new_database(leader_server), *(new_database(follower_server) for _ in range(3))]
    external = [f"ALTER TABLE {name} ALTER big SET STORAGE EXTERNAL" for name in EXTERNAL]
    for dsn in dsns:
        run_sql(dsn, NOISE, TABLES, *external)
    return dsns


def test_sets_come_to_the_same_as_serial_replay_and_as_the_leader(databases: list[str], postgres_version: int):
    with ExitStack() as stack:
        stack.enter_context(collector_as_it_was())
        leader = LeaderInTest(databases[0], NAMES)
        stack.callback(leader.close)
        by_sets, serial = FollowerInTest(databases[1], NAMES, 0), FollowerInTest(databases[2], NAMES, 10**9)
        interpreted = FollowerInTest(databases[3], NAMES, 0, is_compiled=False)

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            print_blob=True,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
        )
        @given(transactions, limits, st.booleans())
        def check(transactions: list[list[str]], limits: ApplyLimits, in_arrays: bool) -> None:
            # Given empty tables, when the leader runs the transactions and the followers take its log.
            start = leader.empty()
            for follower in (by_sets, serial, interpreted):
                follower.empty(start)
            for statements in (FIRST_ROWS, *transactions):
                leader.run(statements)
            values = leader.records(start)
            note(f"{len(values)} records")
            by_sets.rows_in_arrays = ROWS_IN_ARRAYS if in_arrays else 0
            interpreted.rows_in_arrays = 0 if in_arrays else ROWS_IN_ARRAYS
            by_sets.apply(values, limits)
            serial.apply(values)
            interpreted.apply(values, limits)

            # Then all hold the same.
            for follower in (serial, by_sets, interpreted):
                assert first_difference(leader.dsn, follower.dsn) is None

        check()
        assert min(by_sets.sets, interpreted.sets) > 5 * EXAMPLES
        assert serial.sets == 0
