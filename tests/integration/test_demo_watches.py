"""The demo's verdict is worth something: what looks at followers sees what is wrong with them."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator

import psycopg
import pytest

from cdc.demo import shop
from cdc.demo.compare import differing, digests
from cdc.demo.load import Journal, Load
from cdc.demo.watch import Auditor, Leader, Sight
from cdc.local.processes import wait_for

CREATE = """
CREATE TABLE t (id int PRIMARY KEY, a text, n numeric, f float8, j jsonb, k json);
INSERT INTO t VALUES (1, '', 1.0, 0, '{"a": 1}', '{"a": 1}'), (2, NULL, NULL, 'NaN', NULL, NULL);
CREATE TABLE no_key (a text);
INSERT INTO no_key VALUES ('x'), ('x'), (NULL);
CREATE TABLE untouched (id int PRIMARY KEY)
"""


def run(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


class TestComparison:
    def test_same_rows_in_another_physical_order_are_equal(self, leader_db: str, follower_db: str):
        run(leader_db, CREATE)
        run(follower_db, CREATE, "UPDATE t SET f = f WHERE id = 1")

        assert differing(digests(leader_db), digests(follower_db)) == []

    @pytest.mark.parametrize(
        ("statement", "table"),
        [
            ("UPDATE t SET a = NULL WHERE id = 1", "t"),
            ("UPDATE t SET a = '' WHERE id = 2", "t"),
            ("UPDATE t SET a = ' ' WHERE id = 1", "t"),
            ("UPDATE t SET n = 1.00 WHERE id = 1", "t"),
            ("UPDATE t SET f = '-0' WHERE id = 1", "t"),
            ("UPDATE t SET k = '{\"a\":1}' WHERE id = 1", "t"),
            ("UPDATE t SET id = 3 WHERE id = 2", "t"),
            ("DELETE FROM t WHERE id = 2", "t"),
            ("INSERT INTO no_key VALUES ('x')", "no_key"),
            ("ALTER TABLE t ADD COLUMN more int", "t"),
            ("ALTER TABLE t RENAME a TO b", "t"),
            ("DROP TABLE untouched", "untouched"),
            ("CREATE TABLE another (id int)", "another"),
        ],
    )
    def test_every_difference_is_told_by_table(self, leader_db: str, follower_db: str, statement: str, table: str):
        run(leader_db, CREATE)
        run(follower_db, CREATE, statement)

        assert differing(digests(leader_db), digests(follower_db)) == [table]

    def test_settings_of_a_database_do_not_matter(self, leader_db: str, follower_db: str):
        table = "CREATE TABLE t AS SELECT 0.1::float8 AS f, now()::timestamptz(0) AS at, '\\x00ff'::bytea AS b"
        run(leader_db, table)
        name = psycopg.conninfo.conninfo_to_dict(follower_db)["dbname"]
        settings = {
            "DateStyle": "German",
            "TimeZone": "Asia/Tokyo",
            "extra_float_digits": "-3",
            "bytea_output": "escape",
        }
        run(follower_db, *(f"ALTER DATABASE {name} SET {key} = '{value}'" for key, value in settings.items()))
        with psycopg.connect(leader_db) as source, psycopg.connect(follower_db) as sink:
            row = source.execute("SELECT f, at, b FROM t").fetchone()
            sink.execute("CREATE TABLE t (f float8, at timestamptz(0), b bytea)")
            sink.execute("INSERT INTO t VALUES (%s, %s, %s)", row)

        assert differing(digests(leader_db), digests(follower_db)) == []


@pytest.fixture
def shop_db(leader_db: str) -> Iterator[str]:
    """The shop with its first rows, and the position that a follower would have."""
    run(
        leader_db,
        "DO $$ BEGIN CREATE ROLE clerk; EXCEPTION WHEN duplicate_object THEN END $$",
        shop.schema_sql(),
        shop.seed_sql(),
        "CREATE SCHEMA cdc",
        "CREATE TABLE cdc.position AS SELECT pg_current_wal_insert_lsn() AS end_lsn",
    )
    yield leader_db
    run(leader_db, "DROP OWNED BY clerk")


class TestLoad:
    def test_every_kind_of_transaction_can_be_run(self, shop_db: str):
        kinds: dict[str, shop.Transaction] = {}
        for seed in range(5000):
            transaction = shop.make_transaction(random.Random(seed))
            kinds.setdefault(transaction.kind, transaction)
        assert len(kinds) >= 10

        with psycopg.connect(shop_db) as connection:
            for number, transaction in enumerate(kinds.values(), 1):
                for step in transaction.steps:
                    cursor = connection.execute(step.statement.encode(), step.parameters)
                    assert cursor.rowcount > 0, transaction.kind
                assert connection.execute(shop.WRITE_LEDGER, (transaction.kind, uuid.uuid4())).fetchone() == (number,)

    def test_descriptions_lie_out_of_line_and_are_not_all_the_same(self, shop_db: str):
        with psycopg.connect(shop_db) as connection:
            row = connection.execute(
                "SELECT count(DISTINCT description), min(length(description)), "
                "pg_relation_size(reltoastrelid) > sum(length(description)) "
                "FROM products, pg_class WHERE pg_class.oid = 'products'::regclass GROUP BY reltoastrelid"
            ).fetchone()

        assert row is not None
        assert row[0] == 500
        assert row[1] > 2000
        assert row[2]

    def test_ledger_has_no_holes_and_its_order_is_that_of_the_commits(self, shop_db: str):
        journal = Journal()
        load = Load(shop_db, 500, journal)
        sight = Sight("leader", shop_db, journal)
        sight.thread.start()
        load.start()
        assert wait_for(lambda: journal.transactions >= 300, seconds=30)
        load.stop()
        load.check()
        assert wait_for(lambda: sight.newest == journal.newest, seconds=10)
        sight.thread.stop()
        sight.thread.check()

        assert journal.transactions == journal.newest
        seen = [sight.seen_at(number) or 0.0 for number in range(1, journal.newest + 1)]
        assert seen == sorted(seen)
        assert all((sight.lag_seconds(number) or 0) < 5 for number in range(1, journal.newest + 1))


class TestLeader:
    def test_dead_one_gives_no_answer_and_the_next_one_is_asked(self, leader_db: str, follower_db: str):
        now = {"leads": leader_db}
        leader = Leader(lambda: now["leads"])
        query = "SELECT 1"
        assert leader.number(query) == 1

        now["leads"] = "postgresql://127.0.0.1:1/nowhere"
        assert leader.number(query) is None

        now["leads"] = follower_db
        assert leader.number(query) == 1
        assert leader.dsn == follower_db
        leader.close()


class TestAuditor:
    @pytest.fixture
    def auditor(self, shop_db: str) -> Iterator[Auditor]:
        auditor = Auditor("follower", shop_db, lambda: shop_db)
        auditor.thread.start()
        assert wait_for(lambda: auditor.snapshots > 0, seconds=10)
        yield auditor
        auditor.thread.stop()
        auditor.thread.check()

    def test_whole_transactions_pass(self, shop_db: str, auditor: Auditor):
        load = Load(shop_db, 200, Journal())
        load.start()
        before = auditor.snapshots

        assert wait_for(lambda: auditor.snapshots > before + 3, seconds=20)

        load.stop()
        assert auditor.passed
        assert auditor.latest is not None
        assert (auditor.latest.pending_bytes or 0) > 0

    @pytest.mark.parametrize(
        ("statement", "found"),
        [
            ("UPDATE bank_accounts SET balance = balance - 1 WHERE id = 7", "bank_total_differed"),
            ("UPDATE bank_branches SET balance = balance - 1 WHERE id = 7", "torn"),
            ("INSERT INTO bank_history (from_account, to_account, amount) VALUES (1, 2, 3)", "torn"),
            ("INSERT INTO ledger (number, kind) VALUES (2, 'price')", "had_holes"),
        ],
    )
    def test_part_of_a_transaction_is_seen(self, shop_db: str, auditor: Auditor, statement: str, found: str):
        run(shop_db, statement)

        assert wait_for(lambda: getattr(auditor, found), seconds=10)
        assert not auditor.passed
