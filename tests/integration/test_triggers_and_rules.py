"""What of a follower's own triggers and rules acts when the applier writes, and what is never sent to it."""

from __future__ import annotations

from tests.fixtures.pipeline import Pipelines
from tests.support.pipeline import FOLLOWER, rows_of, run_sql

WRITABLE = "SET default_transaction_read_only = off"
NOTE = """
CREATE SCHEMA own CREATE TABLE note (who text, op text);
CREATE FUNCTION own.tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO own.note VALUES (TG_NAME, TG_OP);
    RETURN NULL;
END $$;
CREATE TRIGGER plain AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION own.tell();
CREATE TRIGGER replica AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION own.tell();
CREATE TRIGGER always AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION own.tell();
ALTER TABLE t ENABLE REPLICA TRIGGER replica, ENABLE ALWAYS TRIGGER always;
CREATE RULE plain AS ON UPDATE TO ruled DO ALSO INSERT INTO own.note VALUES ('rule', 'plain');
CREATE RULE replica AS ON INSERT TO ruled DO ALSO INSERT INTO own.note VALUES ('rule', 'replica');
ALTER TABLE ruled ENABLE REPLICA RULE replica;
"""


def test_triggers_and_rules_fire_once_a_change_where_they_are_enabled_for_replicas(
    pipelines: Pipelines, postgres_version: int
):
    # Given a follower with triggers and rules of every kind.
    tables = ("CREATE TABLE t (id int PRIMARY KEY, v int)", "CREATE TABLE ruled (id int PRIMARY KEY, v int)")
    pipeline = pipelines.new(*tables, version=postgres_version).init().bootstrap()
    follower = pipeline.followers[FOLLOWER]
    run_sql(follower, WRITABLE, NOTE)
    pipeline.start()

    # When the leader writes enough for sets, and changes rows twice.
    pipeline.execute(
        "INSERT INTO t SELECT i, i FROM generate_series(1, 200) i",
        "BEGIN; UPDATE t SET v = -v; UPDATE t SET v = v + 1; COMMIT",
        "DELETE FROM t WHERE id > 150",
        "INSERT INTO ruled SELECT i, i FROM generate_series(1, 200) i",
        "UPDATE ruled SET v = -v",
    )
    pipeline.catch_up()

    # Then those for replicas have acted on each change, and no other.
    pipeline.assert_equal("public.")
    assert rows_of(follower, "SELECT who, op, count(*) FROM own.note GROUP BY 1, 2 ORDER BY 1, 2") == [
        ("always", "DELETE", 50), ("always", "INSERT", 200), ("always", "UPDATE", 400),
        ("replica", "DELETE", 50), ("replica", "INSERT", 200), ("replica", "UPDATE", 400),
        ("rule", "replica", 200),
    ]  # fmt: skip


def test_unlogged_and_temporary_tables_are_never_sent(pipelines: Pipelines, postgres_version: int):
    # Given a leader with an unlogged table, which the follower got empty.
    pipeline = pipelines.new(
        "CREATE TABLE t (id int PRIMARY KEY)", "CREATE UNLOGGED TABLE scratch (id int PRIMARY KEY)",
        version=postgres_version,
    ).init().bootstrap().start()  # fmt: skip

    # When it is written to, as a temporary table is, in transactions that write what is published.
    pipeline.execute(
        "BEGIN; INSERT INTO scratch VALUES (1); INSERT INTO t VALUES (1); "
        "CREATE TEMPORARY TABLE t2 AS TABLE scratch; DELETE FROM t2; COMMIT",
        "TRUNCATE scratch",
        "BEGIN; CREATE TEMPORARY TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (99); COMMIT",
    )
    pipeline.catch_up()

    # Then only that arrives.
    assert rows_of(pipeline.followers[FOLLOWER], "SELECT id FROM t") == [(1,)]
    assert rows_of(pipeline.followers[FOLLOWER], "SELECT count(*) FROM scratch") == [(0,)]
    logged = rows_of(pipeline.leader, "SELECT relname FROM pg_publication_rel JOIN pg_class c ON c.oid = prrelid")
    assert logged == [("t",)]
