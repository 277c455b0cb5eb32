"""`cdc bootstrap --tables`: some tables of a follower copied anew, at the very place where its applier is."""

from __future__ import annotations

import pytest

from tests.fixtures.pipeline import Pipelines
from tests.support.bank import BANK, Bank, BankWatch
from tests.support.pipeline import FOLLOWER, Pipeline, rows_of, run_sql

pytestmark = pytest.mark.faults

MORE = (
    "CREATE TABLE item (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, code text UNIQUE, note text, "
    "twice int GENERATED ALWAYS AS (length(note) * 2) STORED, gone int)",
    "ALTER TABLE item DROP gone",
    "INSERT INTO item (code, note) SELECT 'c' || i, repeat(md5(i::text), 3) FROM generate_series(1, 2000) i",
    "CREATE TABLE keyless (a int, b text)",
    "ALTER TABLE keyless REPLICA IDENTITY FULL",
    "INSERT INTO keyless SELECT i % 50, 'b' FROM generate_series(1, 300) i",
    "CREATE TABLE parent (id int PRIMARY KEY)",
    "CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent)",
    "INSERT INTO parent SELECT generate_series(1, 20)",
    "INSERT INTO child SELECT i, i FROM generate_series(1, 20) i",
)
UNNOTICED = "-c default_transaction_read_only=off -c session_replication_role=replica"
DAMAGE = (
    "DELETE FROM item WHERE id % 7 = 0",
    "UPDATE item SET note = 'damaged', code = code || 'x' WHERE id % 7 = 1",
    "INSERT INTO item OVERRIDING SYSTEM VALUE VALUES (1000000, 'c7', 'too much')",
    "DELETE FROM keyless WHERE a < 20",
    "INSERT INTO keyless VALUES (3, 'too much'), (3, 'too much')",
)


def damage(pipeline: Pipeline, *statements: str) -> None:
    """On the follower, as nobody should."""
    run_sql(f"{pipeline.followers[FOLLOWER]}?options={UNNOTICED.replace(' ', '%20').replace('=', '%3D')}", *statements)


def recopied(pipeline: Pipeline, *tables: str) -> str:
    options = [option for table in tables for option in ("--tables", table)]
    return pipeline.run("bootstrap", "--follower", FOLLOWER, "--jobs", "2", *options)


def nothing_is_left(pipeline: Pipeline) -> None:
    tables = "SELECT relname FROM pg_class WHERE relnamespace = 'cdc'::regnamespace AND relname LIKE 'copy%'"
    assert rows_of(pipeline.followers[FOLLOWER], tables) == []
    assert rows_of(pipeline.followers[FOLLOWER], "SELECT FROM cdc.bootstrap_part") == []


@pytest.fixture
def pipeline(module_pipelines: Pipelines) -> Pipeline:
    """The bank and more, and everything running."""
    return module_pipelines.kept("all", lambda: module_pipelines.new(*BANK, *MORE).init().bootstrap().start())


def test_tables_under_load_change_places_without_a_state_that_the_leader_did_not_have(pipeline: Pipeline):
    """All of the bank's rows are copied anew three times while they are written, and every look finds them right."""
    with Bank(pipeline.leader, pause_seconds=0.001) as bank:
        bank.transacts(20)
        with BankWatch(pipeline.followers[FOLLOWER]) as watch:
            for _ in range(3):
                said = recopied(pipeline, "public.account", "public.ledger", "public.counter")
                assert "of 3 tables anew" in said
                assert "leaves out" not in said
                bank.transacts(20)
            bank.stop()
            pipeline.catch_up()
            watch.check()
    pipeline.assert_equal()
    pipeline.check_running("capture", f"apply {FOLLOWER}")
    nothing_is_left(pipeline)


def test_rows_that_differ_become_the_leaders_while_the_applier_runs(pipeline: Pipeline):
    damage(pipeline, *DAMAGE)
    with Bank(pipeline.leader) as bank:
        recopied(pipeline, "public.item", "public.key*")
        bank.transacts(5)
    pipeline.execute("UPDATE item SET note = note || '!' WHERE id % 7 < 2", "DELETE FROM keyless WHERE a = 3")
    pipeline.catch_up()
    pipeline.assert_equal()
    nothing_is_left(pipeline)


def test_an_applier_that_stopped_at_such_a_table_goes_on_behind_its_new_rows(pipeline: Pipeline):
    """What lies between its position and the new rows is left out for that table alone, a TRUNCATE that would reach it
    included."""
    damage(pipeline, "DELETE FROM item WHERE id = 5", "DELETE FROM child WHERE id = 5")
    pipeline.execute(
        "UPDATE item SET note = 'five' WHERE id = 5",
        "DELETE FROM child WHERE id = 6",
        "TRUNCATE parent CASCADE",
        "INSERT INTO parent VALUES (1), (2)",
        "INSERT INTO child VALUES (1, 1)",
    )
    assert pipeline.ends(f"apply {FOLLOWER}") == 4
    pipeline.execute("INSERT INTO item (code, note) VALUES ('new', 'new')", "INSERT INTO keyless VALUES (1, 'new')")
    said = recopied(pipeline, "public.item", "public.child")
    assert "the applier leaves out the changes of these" in said
    pipeline.execute("UPDATE item SET note = 'newer' WHERE code = 'new'", "INSERT INTO child VALUES (2, 2)")
    pipeline.start_apply()
    pipeline.catch_up()
    pipeline.assert_equal()
    pipeline.check_running(f"apply {FOLLOWER}")


def test_a_run_that_was_killed_has_changed_nothing_and_is_repeated(pipeline: Pipeline):
    damage(pipeline, "DELETE FROM item WHERE id = 9")
    options = ("bootstrap", "--follower", FOLLOWER, "--tables", "public.item")
    assert pipeline.group.run(*options, failpoint="recopy.before_exchange").returncode == -9
    assert rows_of(pipeline.followers[FOLLOWER], "SELECT FROM item WHERE id = 9") == []
    pipeline.execute("UPDATE item SET note = 'other' WHERE id = 11")
    pipeline.run(*options)
    pipeline.catch_up()
    pipeline.assert_equal()
    nothing_is_left(pipeline)


def test_what_cannot_be_copied_is_refused_in_one_line(pipeline: Pipeline):
    for options, words in (
        (("--tables", "public.nothing*"), "none of these tables is published"),
        (("--tables", "item"), "takes schema.table"),
        (("--tables", "public.item", "--schema", "none"), "--schema says nothing"),
    ):
        done = pipeline.group.run("bootstrap", "--follower", FOLLOWER, *options)
        assert done.returncode in (2, 3)
        assert words in done.stderr.splitlines()[-1]


def test_a_follower_whose_skipped_tables_were_copied_has_diverged_no_more(pipeline: Pipeline):
    damage(pipeline, "DELETE FROM item WHERE id = 15")
    pipeline.execute("UPDATE item SET note = 'fifteen' WHERE id = 15")
    assert pipeline.ends(f"apply {FOLLOWER}") == 4
    position = pipeline.log_of(f"apply {FOLLOWER}").rpartition("--position ")[2].split()[0]
    pipeline.run("skip", "--follower", FOLLOWER, "--position", position, "--reason", "test", "--file",
                 str(pipeline.group.config.parent / f"skipped-{position.replace('/', '-')}"))  # fmt: skip
    pipeline.start_apply()
    pipeline.catch_up()
    assert "diverged since" in pipeline.run("status")
    recopied(pipeline, "public.item")
    assert "diverged since" not in pipeline.run("status")
    pipeline.assert_equal()
