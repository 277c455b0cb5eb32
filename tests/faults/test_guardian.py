"""Somebody changes what `cdc init` made: capture says what is lost, ends, and makes nothing anew."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cdc.local import KafkaServer
from cdc.local.processes import wait_for
from tests.fixtures.pipeline import Pipelines
from tests.fixtures.servers import OwnPostgres
from tests.support.pipeline import FOLLOWER, Pipeline, rows_of, run_sql
from tests.support.topic import Topic, fatal

pytestmark = [pytest.mark.faults, pytest.mark.newest_first]

TABLES = ("CREATE TABLE t (id int PRIMARY KEY, x text)", "CREATE TABLE other (id int PRIMARY KEY)")
KEPT = "SELECT slot_name FROM pg_replication_slots WHERE database = current_database()"


def on_leader(*statements: str) -> Callable[[Pipeline, Topic], None]:
    """Statements in which {pub} stands for the publication."""
    return lambda pipeline, _: run_sql(
        pipeline.leader, *(text.replace("{pub}", pipeline.group.slot) for text in statements)
    )


HARMS: dict[str, tuple[Callable[[Pipeline, Topic], None], tuple[str, ...]]] = {
    "publication dropped": (on_leader("DROP PUBLICATION {pub}"), ("publication", "does not exist")),
    "table dropped from it": (on_leader("ALTER PUBLICATION {pub} DROP TABLE other"), ("public.other is not in it",)),
    "fewer operations": (on_leader("ALTER PUBLICATION {pub} SET (publish = 'insert')"), ("delete is false, was true",)),
    "topic deleted": (lambda _, topic: topic.delete(), ("the topic does not exist",)),
    "topic made anew": (lambda _, topic: topic.replace(), ("the topic was deleted and made anew",)),
    "topic compacted": (lambda _, topic: topic.set(cleanup_policy="compact"), ("compaction removes changes",)),
}


class TestWhileCaptureRuns:
    """The stream itself would go on, or fail in words that do not help."""

    def test_every_change_that_loses_something_ends_it_and_keeps_it_from_starting(
        self, pipelines: Pipelines, kafka: KafkaServer
    ):
        groups = {name: pipelines.new(*TABLES, followers=()).init() for name in HARMS}
        topics = {name: Topic(kafka, pipeline.group.topic) for name, pipeline in groups.items()}
        for pipeline in groups.values():
            pipeline.start_capture()
        for name, pipeline in groups.items():
            pipeline.execute("INSERT INTO t VALUES (1, 'row')")
            assert wait_for(lambda p=pipeline: "capture streams" in p.log_of("capture"), seconds=30)  # type: ignore[misc]
            HARMS[name][0](pipeline, topics[name])
        for name, pipeline in groups.items():
            fatal(pipeline, "capture", *HARMS[name][1])
        made = {name: (topic.exists(), rows_of(groups[name].leader, KEPT)) for name, topic in topics.items()}

        with ThreadPoolExecutor(2) as pool:
            again = list(pool.map(lambda pipeline: pipeline.group.run("capture"), groups.values()))
        for name, done in zip(groups, again, strict=True):
            assert done.returncode == 4, done.stderr
            for word in HARMS[name][1]:
                assert word in done.stderr
        assert made == {name: (topic.exists(), rows_of(groups[name].leader, KEPT)) for name, topic in topics.items()}

    def test_what_loses_nothing_is_warned_of(self, pipelines: Pipelines, kafka: KafkaServer):
        pipeline = pipelines.new(*TABLES, followers=(), tables=("public.t",)).init()
        Topic(kafka, pipeline.group.topic).set(retention_ms="60000", unclean_leader_election_enable="true")
        on_leader("ALTER PUBLICATION {pub} ADD TABLE other")(pipeline, Topic(kafka, pipeline.group.topic))
        pipeline.start_capture()
        words = ("added to the publication", "retention.ms is 60000", "unclean.leader.election.enable is true")
        assert wait_for(lambda: all(word in pipeline.log_of("capture") for word in words), seconds=30)
        pipeline.check_running("capture")

        assert "made           publication" in pipeline.run("init"), "the pattern decides what is published"
        assert pipeline.group.stop("capture") == 0
        pipeline.start_capture()
        assert wait_for(lambda: pipeline.log_of("capture").count("capture streams") == 2, seconds=30)
        assert pipeline.log_of("capture").count("added to the publication") == 1


class TestPublication:
    """What is published must be what `cdc init` left there."""

    @pytest.fixture
    def pipeline(self, module_pipelines: Pipelines, postgres_version: int) -> Pipeline:
        def build() -> Pipeline:
            return module_pipelines.new(*TABLES, version=postgres_version, followers=()).init()

        return module_pipelines.kept(postgres_version, build)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ("ALTER PUBLICATION {pub} DROP TABLE t; ALTER PUBLICATION {pub} ADD TABLE t", "dropped from it and added"),
            ("DROP TABLE other; CREATE TABLE other (id int PRIMARY KEY)", "public.other is not in it any more"),
        ],
        ids=["blip", "made anew"],
    )
    def test_a_change_is_found_at_the_start_and_cdc_init_takes_it_as_it_is(
        self, pipeline: Pipeline, change: str, words: str
    ):
        for statement in change.split("; "):
            run_sql(pipeline.leader, statement.replace("{pub}", pipeline.group.slot))
        pipeline.start_capture()
        fatal(pipeline, "capture", words, "run cdc init")
        pipeline.run("init")
        pipeline.start_capture()
        pipeline.execute("INSERT INTO t VALUES (1, 'row')", "DELETE FROM t")
        assert wait_for(lambda: "capture streams" in pipeline.log_of("capture").splitlines()[-1], seconds=30)
        assert pipeline.group.stop("capture") == 0

    @pytest.mark.parametrize(
        ("form", "words"), [("t WHERE (id > 5)", "row filter on public.t"), ("t (id)", "column list on public.t")]
    )
    def test_parts_of_a_table_are_found_and_not_taken(self, pipeline: Pipeline, form: str, words: str):
        run_sql(pipeline.leader, f"ALTER PUBLICATION {pipeline.group.slot} SET TABLE {form}, other")
        pipeline.start_capture()
        fatal(pipeline, "capture", f"another {words}")
        refused = pipeline.group.run("init")
        assert (refused.returncode, words in refused.stderr) == (3, True)
        run_sql(pipeline.leader, f"ALTER PUBLICATION {pipeline.group.slot} SET TABLE t, other")
        pipeline.run("init")

    def test_publishing_partitions_as_their_root_is_found_and_not_taken(self, pipeline: Pipeline):
        option = f"ALTER PUBLICATION {pipeline.group.slot} SET (publish_via_partition_root = "
        run_sql(pipeline.leader, f"{option}true)")
        pipeline.start_capture()
        fatal(pipeline, "capture", "via_partition_root is true")
        assert pipeline.group.run("init").returncode == 3
        run_sql(pipeline.leader, f"{option}false)")
        pipeline.run("init")

    def test_a_dropped_and_a_renamed_table_are_no_alarm(self, pipelines: Pipelines):
        pipeline = pipelines.new(*TABLES, followers=()).init()
        run_sql(pipeline.leader, "DROP TABLE other", "ALTER TABLE t RENAME TO renamed")
        pipeline.start_capture()
        assert wait_for(lambda: "capture streams" in pipeline.log_of("capture"), seconds=30)
        assert pipeline.group.stop("capture") == 0


class TestSlot:
    """The slot is lost, each way that a leader can lose it."""

    @pytest.mark.long
    def test_too_much_wal_and_too_long_a_rest_are_told_apart_and_the_first_is_warned_of(
        self, own_postgres: OwnPostgres, pipelines: Pipelines, postgres_version: int
    ):
        server = own_postgres(settings={"max_slot_wal_keep_size": "64MB"})
        pipeline = pipelines.new(*TABLES, leader=server).init().bootstrap()
        pipeline.start_capture()
        assert wait_for(lambda: "capture streams" in pipeline.log_of("capture"), seconds=30)
        pipeline.group.kill("capture")
        write = "SELECT pg_logical_emit_message(false, 'x', repeat('x', 1000000)); SELECT pg_switch_wal()"

        def warned_of() -> bool:
            run_sql(server.dsn(), write)
            return "warning: the slot is lost after" in pipeline.run("lag")

        assert wait_for(warned_of, seconds=30)
        pipeline.start_capture()
        assert wait_for(lambda: "the slot is lost after" in pipeline.log_of("capture"), seconds=30)
        pipeline.group.kill("capture")
        for _ in range(8):
            run_sql(server.dsn(), write)
        run_sql(server.dsn(), "CHECKPOINT")
        pipeline.start_capture()
        fatal(pipeline, "capture", "is lost (wal_removed)", "raise max_slot_wal_keep_size")

        if postgres_version < 18:
            return  # no slot is lost by resting there
        slot = pipeline.group.slot
        run_sql(server.dsn(), "ALTER SYSTEM SET idle_replication_slot_timeout = '1s'", "SELECT pg_reload_conf()")
        rested = pipelines.new(*TABLES, leader=server, followers=()).init()

        def invalidated() -> bool:
            run_sql(server.dsn(), "CHECKPOINT")
            query = f"SELECT FROM pg_replication_slots WHERE slot_name = '{rested.group.slot}' AND wal_status = 'lost'"
            return bool(rows_of(rested.leader, query))

        assert wait_for(invalidated, seconds=30)
        rested.start_capture()
        fatal(rested, "capture", "is lost (idle_timeout)", "raise idle_replication_slot_timeout")
        assert rows_of(pipeline.leader, f"SELECT FROM pg_replication_slots WHERE slot_name = '{slot}'") != []
        assert FOLLOWER in pipeline.group.nodes


class TestFollower:
    """The log's past and the follower's own."""

    @pytest.mark.long
    def test_an_applier_that_retention_is_about_to_reach_says_so(self, pipelines: Pipelines, kafka: KafkaServer):
        pipeline = pipelines.new(*TABLES).init().bootstrap()
        pipeline.start_capture()
        pipeline.execute("INSERT INTO t SELECT i, 'row' FROM generate_series(1, 4000) i")
        topic = Topic(kafka, pipeline.group.topic)
        assert wait_for(lambda: len(topic.records()) > 4000, seconds=60)
        [(offset,)] = rows_of(pipeline.followers[FOLLOWER], "SELECT next_offset FROM cdc.position")
        topic.delete_records_before(offset)
        pipeline.start_apply()
        pipeline.catch_up()
        pipeline.assert_equal()
        assert "the log removes soon what is not applied yet" in pipeline.log_of(f"apply {FOLLOWER}")

    def test_a_follower_that_was_restored_to_an_older_state_goes_on_from_there(
        self, own_postgres: OwnPostgres, pipelines: Pipelines, tmp_path: Path
    ):
        server = own_postgres()
        pipeline = pipelines.new(*TABLES, follower=server).init().bootstrap().start()
        pipeline.execute("INSERT INTO t VALUES (1, 'before')")
        pipeline.catch_up()
        server.stop()
        backup = tmp_path / "backup"
        subprocess.run(["/bin/cp", "-a", server.data_dir, backup], check=True)
        server.start()
        pipeline.execute("INSERT INTO t VALUES (2, 'after')", "UPDATE t SET x = 'new' WHERE id = 1")
        pipeline.catch_up()
        position = pipeline.position()

        server.stop("immediate")
        subprocess.run(["/bin/rm", "-rf", server.data_dir], check=True)
        subprocess.run(["/bin/cp", "-a", backup, server.data_dir], check=True)
        assert pipeline.group.stop(f"apply {FOLLOWER}") == 0
        server.start()
        assert pipeline.position() < position
        assert rows_of(pipeline.followers[FOLLOWER], "SELECT id, x FROM t") == [(1, "before")]
        pipeline.start_apply()
        pipeline.catch_up()
        pipeline.assert_equal()
