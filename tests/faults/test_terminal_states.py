"""Where going on would lose or double rows: exit code 4, what is wrong, and nothing applied after it."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import orjson
import pytest

from cdc.local import KafkaServer
from cdc.local.processes import wait_for
from cdc.protocol.lsn import Lsn
from tests.fixtures.pipeline import Pipelines
from tests.support.pipeline import FOLLOWER, LEADER, Pipeline, rows_of, run_sql
from tests.support.topic import Raw, Topic, fatal
from tests.support.watched import APPLY

pytestmark = [pytest.mark.faults, pytest.mark.newest_first]

TABLE = "CREATE TABLE t (id int PRIMARY KEY, x text)"
BEHIND_OUR_BACK = ("SET default_transaction_read_only = off", "SET session_replication_role = replica")


def transactions(records: list[Raw]) -> list[tuple[int, int, list[int]]]:
    """(commit LSN, offset of the last record, ids of inserted rows) of each transaction that has rows of `t`."""
    found = []
    ids: list[int] = []
    for offset, (_, value) in enumerate(records):
        event = orjson.loads(value)
        if event["op"] == "c":
            ids.append(int(event["after"]["id"]))
        if event["cdc"].get("last"):
            if ids:
                found.append((event["cdc"]["commit_lsn"], offset, ids))
            ids = []
    return found


def newest_commit(records: list[Raw]) -> int:
    """Commit LSN of the last transaction that is complete in `records`."""
    metas = [orjson.loads(value)["cdc"] for _, value in records]
    return int([meta for meta in metas if meta.get("last")][-1]["commit_lsn"])


def ids_of(dsn: str) -> list[int]:
    return [i for (i,) in rows_of(dsn, "SELECT id FROM t ORDER BY id")]


def captured(pipeline: Pipeline, topic: Topic, count: int) -> list[Raw]:
    """All records, once `count` transactions with rows are among them; capture is stopped then."""
    assert wait_for(lambda: len(transactions(topic.records())) >= count, seconds=20), pipeline.group.tail_of_logs()
    assert pipeline.group.stop("capture") == 0
    return topic.records()


class TestOneOfEach:
    """Two of a kind: the second one says so and goes; the first one does not notice."""

    def test_the_second_capture_and_the_second_applier_end(self, pipelines: Pipelines):
        pipeline = pipelines.new(TABLE).init().bootstrap().start()
        pipeline.catch_up()
        commands = {"capture": ["capture"], "apply": ["apply", "--follower", FOLLOWER]}
        with ThreadPoolExecutor() as pool:
            running = {name: pool.submit(pipeline.group.run, *command) for name, command in commands.items()}
        done = {name: future.result() for name, future in running.items()}
        assert {name: second.returncode for name, second in done.items()} == {"capture": 4, "apply": 4}, done
        assert "is in use by cdc capture" in done["capture"].stderr
        assert "another applier works on this follower (backend " in done["apply"].stderr
        assert "stop " in done["capture"].stderr.splitlines()[-1]
        assert "stop one of the two" in done["apply"].stderr.splitlines()[-1]
        pipeline.execute("INSERT INTO t VALUES (1, 'after')")
        pipeline.catch_up()
        pipeline.assert_equal()


class TestLog:
    """The log is not what capture wrote, or not all of it."""

    @pytest.fixture
    def pipeline(self, pipelines: Pipelines) -> Pipeline:
        """Four transactions of a row each in the log, nothing applied."""
        pipeline = pipelines.new(TABLE).init().bootstrap()
        pipeline.start_capture()
        for i in range(1, 5):
            pipeline.execute(f"INSERT INTO t VALUES ({i}, 'row')")
        return pipeline

    @pytest.fixture
    def topic(self, pipeline: Pipeline, kafka: KafkaServer) -> Topic:
        return Topic(kafka, pipeline.group.topic)

    def test_a_missing_transaction_stops_apply_and_is_named(self, pipeline: Pipeline, topic: Topic):
        records = captured(pipeline, topic, 4)
        commit_lsn, last, ids = transactions(records)[2]
        assert ids == [3]
        before = newest_commit(records[:last])
        topic.replace(*records[:last], *records[last + 1 :])
        pipeline.start_apply()
        line = fatal(pipeline, APPLY, "missing in the log", "bootstrap this follower anew")
        assert f"transactions after {Lsn(before)} up to {Lsn(commit_lsn)}" in line
        assert ids_of(pipeline.followers[FOLLOWER]) == [1, 2]
        assert pipeline.position() == before

    def test_a_missing_event_stops_apply_and_nothing_of_its_transaction_stays(self, pipeline: Pipeline, topic: Topic):
        pipeline.execute("INSERT INTO t SELECT i, 'many' FROM generate_series(101, 105) i")
        records = captured(pipeline, topic, 5)
        last = transactions(records)[-1][1]
        topic.replace(*records[: last - 2], *records[last - 1 :])
        pipeline.start_apply()
        fatal(pipeline, APPLY, "records are missing in the log", "ends at event 2", "the next record is event 4")
        assert ids_of(pipeline.followers[FOLLOWER]) == [1, 2, 3, 4]

    def test_records_that_retention_removed_before_they_were_read_stop_apply(self, pipeline: Pipeline, topic: Topic):
        records = captured(pipeline, topic, 4)
        pipeline.start_apply()
        pipeline.wait_applied(transactions(records)[-1][0], all_running=False)
        assert pipeline.group.stop(APPLY) == 0
        position = pipeline.position()
        pipeline.start_capture()
        pipeline.execute("INSERT INTO t VALUES (5, 'row')", "INSERT INTO t VALUES (6, 'row')")
        newest = transactions(captured(pipeline, topic, 6))[-1]
        topic.delete_records_before(newest[1])
        pipeline.start_apply()
        fatal(pipeline, APPLY, "missing in the log", str(Lsn(position)))
        assert pipeline.position() == position

    def test_records_that_come_again_are_ignored(self, pipeline: Pipeline, topic: Topic):
        records = captured(pipeline, topic, 4)
        pipeline.start_apply()
        pipeline.wait_applied(transactions(records)[-1][0], all_running=False)
        topic.append(*records)
        pipeline.start_capture()
        pipeline.execute("UPDATE t SET x = 'new' WHERE id = 2", "DELETE FROM t WHERE id = 3")
        pipeline.catch_up()
        pipeline.assert_equal()
        assert pipeline.group.stop(APPLY) == 0
        run_sql(pipeline.followers[FOLLOWER], *BEHIND_OUR_BACK, "UPDATE cdc.position SET next_offset = 0")
        pipeline.start_apply()
        pipeline.execute("INSERT INTO t VALUES (7, 'last')")
        pipeline.catch_up()
        pipeline.assert_equal()

    @pytest.mark.parametrize(
        ("forge", "words"),
        [
            (lambda _: b"hello", "not an event of this log"),
            (lambda event: orjson.dumps(event)[:-40], "not an event of this log"),
            (lambda event: orjson.dumps({**event, "cdc": {**event["cdc"], "seq": "one"}}), "seq is not a number"),
            (lambda event: orjson.dumps({**event, "after": ["9"]}), "a row is not an object"),
        ],
        ids=["text", "cut", "seq", "row"],
    )
    def test_a_foreign_record_stops_apply_at_its_offset(
        self, pipelines: Pipelines, kafka: KafkaServer, forge: Callable[[dict[str, object]], bytes], words: str
    ):
        pipeline = pipelines.new(TABLE).init().bootstrap()
        topic = Topic(kafka, pipeline.group.topic)
        pipeline.start_capture()
        pipeline.execute("INSERT INTO t VALUES (1, 'row')")
        records = captured(pipeline, topic, 1)
        commit_lsn, last, _ = transactions(records)[0]
        newest = orjson.loads(records[-1][1])["cdc"]["commit_lsn"]
        event = orjson.loads(records[last][1])
        event["cdc"].update(prev=newest, commit_lsn=newest + 8, end_lsn=newest + 16)
        offset = topic.append((None, forge(event)))
        event["after"]["id"] = "2"
        topic.append((None, orjson.dumps(event)))
        pipeline.start_apply()
        fatal(pipeline, APPLY, f"log offset {offset}", "unknown record", words)
        assert ids_of(pipeline.followers[FOLLOWER]) == [1]
        assert commit_lsn <= pipeline.position() <= newest

    def test_a_foreign_record_at_the_end_keeps_capture_from_writing_after_it(self, pipeline: Pipeline, topic: Topic):
        captured(pipeline, topic, 4)
        offset = topic.append((None, b"hello"))
        pipeline.start_capture()
        fatal(pipeline, "capture", f"log offset {offset}", "unknown record")

    def test_a_topic_that_was_made_anew_stops_capture(self, pipeline: Pipeline, topic: Topic):
        captured(pipeline, topic, 4)
        topic.replace()
        pipeline.start_capture()
        fatal(pipeline, "capture", "the topic was deleted and made anew", pipeline.group.topic)
        assert topic.records() == []

    def test_a_topic_that_was_made_anew_stops_apply(self, pipeline: Pipeline, topic: Topic):
        records = captured(pipeline, topic, 4)
        pipeline.start_apply()
        pipeline.wait_applied(transactions(records)[-1][0], all_running=False)
        assert pipeline.group.stop(APPLY) == 0
        topic.replace()
        pipeline.start_apply()
        fatal(pipeline, APPLY, "past the end of the log", "acknowledged records are gone")


class TestSlot:
    """The slot is not the one that feeds the log."""

    def test_a_dropped_slot_stops_capture_and_is_not_made_anew(self, pipelines: Pipelines):
        pipeline = pipelines.new(TABLE, followers=()).init()
        run_sql(pipeline.leader, f"SELECT pg_drop_replication_slot('{pipeline.group.slot}')")
        pipeline.start_capture()
        fatal(pipeline, "capture", LEADER, f"replication slot {pipeline.group.slot} does not exist")
        assert (
            rows_of(pipeline.leader, f"SELECT FROM pg_replication_slots WHERE slot_name = '{pipeline.group.slot}'")
            == []
        )

    def test_a_slot_that_was_dropped_and_made_anew_stops_capture(self, pipelines: Pipelines, kafka: KafkaServer):
        pipeline = pipelines.new(TABLE, followers=()).init()
        topic = Topic(kafka, pipeline.group.topic)
        before = topic.records()
        run_sql(
            pipeline.leader,
            f"SELECT pg_drop_replication_slot('{pipeline.group.slot}')",
            "INSERT INTO t VALUES (1, 'in neither')",
            f"SELECT pg_create_logical_replication_slot('{pipeline.group.slot}', 'pgoutput')",
        )
        pipeline.start_capture()
        line = fatal(pipeline, "capture", LEADER, "the log ends at", "are in neither")
        assert len(re.findall(r"[0-9A-F]+/[0-9A-F]+", line)) == 2
        assert topic.records() == before


class TestDivergence:
    """A row of the follower is not what the change needs: it is named, not shown, and nothing goes past it."""

    @pytest.fixture
    def pipeline(self, module_pipelines: Pipelines, postgres_version: int) -> Pipeline:
        def build() -> Pipeline:
            return module_pipelines.new(TABLE, version=postgres_version).init().bootstrap().start()

        pipeline = module_pipelines.kept(postgres_version, build)
        pipeline.execute("TRUNCATE t", "INSERT INTO t SELECT i, 'secret ' || i FROM generate_series(1, 5) i")
        return pipeline

    @pytest.mark.parametrize(
        ("harm", "change", "verb", "repair"),
        [
            ("DELETE FROM t WHERE id = 2", "UPDATE t SET x = 'secret new' WHERE id = 2", "update",
             "INSERT INTO t VALUES (2, 'secret 2')"),
            ("DELETE FROM t WHERE id = 2", "DELETE FROM t WHERE id = 2", "delete",
             "INSERT INTO t VALUES (2, 'secret 2')"),
            ("INSERT INTO t VALUES (6, 'secret 6')", "INSERT INTO t VALUES (6, 'secret new')", "insert",
             "DELETE FROM t WHERE id = 6"),
            ("UPDATE t SET id = 20 WHERE id = 2", "UPDATE t SET x = 'secret new' WHERE id < 4", "update",
             "UPDATE t SET id = 2 WHERE id = 20"),
        ],
        ids=["update-gone", "delete-gone", "insert-there", "key-changed"],
    )  # fmt: skip
    def test_apply_stops_before_the_row_and_goes_on_once_it_is_repaired(
        self, pipeline: Pipeline, harm: str, change: str, verb: str, repair: str
    ):
        follower = pipeline.followers[FOLLOWER]
        pipeline.catch_up()
        run_sql(follower, *BEHIND_OUR_BACK, harm)
        pipeline.transact("INSERT INTO t VALUES (100, 'same transaction')", change)
        line = fatal(pipeline, APPLY, FOLLOWER, f"{verb} on public.t", "key columns: id", "make them equal")
        assert "secret" not in pipeline.log_of(APPLY)
        named = re.search(r"transaction ([0-9A-F]+/[0-9A-F]+) event [23]", line)
        assert named is not None
        position = pipeline.position()
        assert position < Lsn.parse(named[1])
        assert 100 not in ids_of(follower)

        pipeline.start_apply()
        assert fatal(pipeline, APPLY).split(" in transaction ")[1:] == line.split(" in transaction ")[1:]
        assert pipeline.position() == position

        run_sql(follower, *BEHIND_OUR_BACK, repair)
        pipeline.start_apply()
        pipeline.catch_up()
        pipeline.assert_equal()
