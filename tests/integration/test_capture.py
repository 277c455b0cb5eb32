"""Capture between a real leader and a real topic: what is in the log, and how far the slot is, whatever happens."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from cdc.local import KafkaServer
from cdc.local.processes import wait_for
from cdc.log.tail import LogTail
from cdc.protocol.lsn import Lsn
from connectors.kafka.consumer import LogReader
from connectors.kafka.settings import common_settings
from tests.fixtures.pipeline import Pipelines
from tests.fixtures.servers import OwnPostgres
from tests.support.log import Event, accepted, changes, names, read_log
from tests.support.pipeline import Pipeline, rows_of, run_sql

TABLE = "CREATE TABLE ledger (id bigint PRIMARY KEY, note text)"
FAILPOINTS = ["capture.produced", "capture.delivered", "capture.mid_transaction"]


class Captured:
    """A group with a leader only, and its log."""

    def __init__(self, pipeline: Pipeline, bootstrap_servers: str) -> None:
        self.pipeline = pipeline
        self.bootstrap_servers = bootstrap_servers

    def start(self, failpoint: str | None = None) -> None:
        """Start capture, and return when it has the slot."""
        self.pipeline.start_capture(failpoint)
        query = f"SELECT active FROM pg_replication_slots WHERE slot_name = '{self.pipeline.group.slot}'"
        streams = wait_for(lambda: rows_of(self.pipeline.leader, query) == [(True,)], seconds=20)
        assert streams, self.pipeline.group.tail_of_logs()

    def events(self) -> list[Event]:
        return read_log(self.bootstrap_servers, self.pipeline.group.topic)

    def tail(self) -> LogTail:
        with LogReader(common_settings(self.bootstrap_servers, "test"), self.pipeline.group.topic) as reader:
            tail = reader.read_tail()
        assert tail is not None
        return tail

    def insert(self, first: int, count: int, transactions: int = 1) -> None:
        """`count` rows a transaction, numbered from `first`."""
        self.pipeline.execute(
            *(
                f"INSERT INTO ledger SELECT g, 'note ' || g FROM generate_series({start}, {start + count - 1}) g"
                for start in range(first, first + count * transactions, count)
            )
        )

    def slot_lsn(self) -> int:
        query = f"SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '{self.pipeline.group.slot}'"
        return Lsn.parse(rows_of(self.pipeline.leader, query)[0][0])

    def wait_for_log(self, lsn: int, seconds: float = 30.0) -> None:
        """Until the log holds every transaction that was committed before `lsn`."""
        reached = wait_for(lambda: self.tail().commit_lsn >= lsn, seconds=seconds)
        assert reached, f"the log does not reach {lsn}\n{self.pipeline.group.tail_of_logs()}"

    def catch_up(self, seconds: float = 30.0) -> None:
        self.wait_for_log(self.pipeline.mark(), seconds)

    def ids(self) -> list[int]:
        """Ids of the rows that were inserted, as a reader of the log accepts them."""
        return [int(event["after"]["id"]) for event in changes(accepted(self.events()), "ledger") if event["op"] == "c"]


@pytest.fixture
def captured(pipelines: Pipelines, kafka: KafkaServer, postgres_version: int) -> Captured:
    pipeline = pipelines.new(TABLE, version=postgres_version, followers=()).init()
    return Captured(pipeline, kafka.bootstrap_servers)


class TestRecords:
    def test_the_log_is_the_chain_of_the_leaders_transactions(self, captured: Captured, postgres_version: int) -> None:
        captured.start()
        captured.pipeline.transact(
            "INSERT INTO ledger VALUES (1, 'a'), (2, NULL)", "UPDATE ledger SET note = 'ä' WHERE id = 1"
        )
        captured.pipeline.transact("DELETE FROM ledger WHERE id = 2", "UPDATE ledger SET id = 3 WHERE id = 1")
        captured.pipeline.execute("TRUNCATE ledger")
        captured.catch_up()
        events = captured.events()
        assert events[0]["cdc"]["kind"] == "epoch"
        assert accepted(events) == [event for event in events if "seq" in event["cdc"]]
        told = [
            (event["op"], event["before"], event["after"], event["cdc"]["seq"], event["cdc"].get("last", False))
            for event in events
            if event["op"] in "cudt"
        ]
        assert told == [
            ("c", None, {"id": "1", "note": "a"}, 1, False),
            ("c", None, {"id": "2", "note": None}, 2, False),
            ("u", None, {"id": "1", "note": "ä"}, 3, True),
            ("d", {"id": "2"}, None, 1, False),
            ("u", {"id": "1"}, {"id": "3", "note": "ä"}, 2, True),
            ("t", None, None, 1, True),
        ]

    def test_a_message_of_its_own_right_before_a_commit_is_another_transaction(
        self, captured: Captured, postgres_version: int
    ) -> None:
        captured.start()
        captured.pipeline.transact(
            "INSERT INTO ledger VALUES (1, 'a')", "SELECT pg_logical_emit_message(false, 'app', 'x')"
        )
        captured.catch_up()
        assert captured.ids() == [1]
        assert [e["message"]["prefix"] for e in accepted(captured.events()) if e["op"] == "m"].count("app") == 1

    def test_a_record_larger_than_the_broker_takes_is_split(self, pipelines: Pipelines, kafka: KafkaServer) -> None:
        pipeline = pipelines.new(TABLE, followers=(), kafka={"max_record_bytes": 20_000}).init()
        captured = Captured(pipeline, kafka.bootstrap_servers)
        captured.start()
        noise = "(SELECT string_agg(md5(g::text), '') FROM generate_series(1, 9000) g)"
        pipeline.execute(f"INSERT INTO ledger VALUES (1, {noise})")
        captured.catch_up()
        events = captured.events()
        assert sum(event["cdc"].get("kind") == "part" for event in events) > 10
        (event,) = changes(accepted(events), "ledger")
        assert event["after"]["note"] == rows_of(pipeline.leader, "SELECT note FROM ledger")[0][0]

    def test_describe_brings_the_schema_again(self, captured: Captured) -> None:
        captured.start()
        captured.insert(1, 1)
        captured.pipeline.execute("SELECT pg_logical_emit_message(true, 'cdc.describe', '')")
        captured.insert(2, 1)
        captured.catch_up()
        kinds = [event["cdc"].get("kind") for event in captured.events()]
        assert kinds.count("schema") == 2


class TestStops:
    def test_after_a_clean_stop_nothing_is_published_twice(self, captured: Captured) -> None:
        for round_ in range(3):
            captured.start()
            captured.insert(1 + round_ * 20_000, 20_000)  # one transaction: stopped in the middle of it
            assert captured.pipeline.group.stop("capture") == 0
        captured.start()
        captured.catch_up()
        events = captured.events()
        assert len(names(events)) == len(set(names(events)))
        assert captured.ids() == list(range(1, 60_001))

    @pytest.mark.parametrize("failpoint", FAILPOINTS)
    def test_a_kill_leads_to_repeats_at_most(self, captured: Captured, failpoint: str) -> None:
        captured.insert(1, 30_000)
        captured.pipeline.start_capture(failpoint=f"{failpoint}:2")
        captured.insert(30_001, 10, transactions=50)
        assert captured.pipeline.ends("capture") == -signal.SIGKILL
        assert captured.slot_lsn() <= captured.tail().end_lsn
        captured.start()
        captured.catch_up()
        assert captured.ids() == list(range(1, 30_501))

    def test_kills_at_random_moments_lose_nothing(self, captured: Captured) -> None:
        for round_ in range(4):
            captured.start()
            captured.insert(1 + round_ * 4000, 40, transactions=100)
            captured.pipeline.group.kill("capture")
            assert captured.slot_lsn() <= captured.tail().end_lsn
        captured.start()
        captured.catch_up()
        assert captured.ids() == list(range(1, 16_001))

    def test_a_second_capture_says_that_the_slot_is_in_use(self, captured: Captured) -> None:
        captured.start()
        captured.insert(1, 1)
        captured.catch_up()
        second = captured.pipeline.group.run("capture")
        assert second.returncode == 4
        assert "in use" in second.stderr
        assert captured.pipeline.running("capture")


class TestSlot:
    def test_it_is_never_past_the_log(self, captured: Captured) -> None:
        captured.start()
        checks = 0
        with writing(captured, rows=200, transactions=100):
            while captured.slot_lsn() < captured.tail().end_lsn or checks < 30:
                confirmed = captured.slot_lsn()
                assert confirmed <= captured.tail().end_lsn
                checks += 1

    def test_an_idle_group_lets_unrelated_wal_go(self, captured: Captured, postgres_version: int) -> None:
        run_sql(captured.pipeline.leader, "CREATE SCHEMA other", "CREATE TABLE other.t (v text)")
        captured.start()
        run_sql(
            captured.pipeline.leader,
            "INSERT INTO other.t SELECT repeat('x', 500) FROM generate_series(1, 20000)",
            "SELECT pg_switch_wal()",
        )
        lsn = rows_of(captured.pipeline.leader, "SELECT pg_current_wal_lsn()")[0][0]
        assert wait_for(lambda: captured.slot_lsn() >= Lsn.parse(lsn), seconds=15)
        assert captured.slot_lsn() <= captured.tail().end_lsn

    def test_one_that_was_dropped_is_not_made_anew(self, captured: Captured) -> None:
        run_sql(captured.pipeline.leader, f"SELECT pg_drop_replication_slot('{captured.pipeline.group.slot}')")
        capture = captured.pipeline.group.run("capture")
        assert capture.returncode == 4
        assert "does not exist" in capture.stderr

    def test_one_that_was_made_anew_is_recognized(self, captured: Captured) -> None:
        slot = captured.pipeline.group.slot
        captured.insert(1, 10)
        run_sql(
            captured.pipeline.leader,
            f"SELECT pg_drop_replication_slot('{slot}')",
            f"SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')",
        )
        capture = captured.pipeline.group.run("capture")
        assert capture.returncode == 4
        assert "in neither" in capture.stderr

    def test_a_topic_that_was_made_anew_is_recognized(self, captured: Captured) -> None:
        topic = captured.pipeline.group.topic
        admin = AdminClient({"bootstrap.servers": captured.bootstrap_servers})
        admin.delete_topics([topic])[topic].result(10)
        assert wait_for(lambda: topic not in admin.list_topics(timeout=5).topics, seconds=15)
        assert captured.pipeline.group.run("capture").returncode == 4
        admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(10)
        capture = captured.pipeline.group.run("capture")
        assert capture.returncode == 4
        assert "made anew" in capture.stderr


class TestServers:
    def test_a_fast_shutdown_of_the_leader_does_not_wait_for_us(
        self, pipelines: Pipelines, kafka: KafkaServer, own_postgres: OwnPostgres
    ) -> None:
        server = own_postgres()
        captured = Captured(pipelines.new(TABLE, leader=server, followers=()).init(), kafka.bootstrap_servers)
        captured.start()
        captured.insert(1, 1000, transactions=20)
        assert seconds_of(lambda: server.stop("fast")) < 10
        server.start()
        captured.insert(20_001, 10)
        captured.catch_up()
        assert captured.ids() == list(range(1, 20_011))
        captured.pipeline.check_running("capture")

    def test_a_leader_that_dies_and_comes_back_loses_nothing(
        self, pipelines: Pipelines, kafka: KafkaServer, own_postgres: OwnPostgres
    ) -> None:
        server = own_postgres()
        captured = Captured(pipelines.new(TABLE, leader=server, followers=()).init(), kafka.bootstrap_servers)
        captured.start()
        for round_ in range(2):
            captured.insert(1 + round_ * 5000, 50, transactions=100)
            server.kill()
            server.start()
        captured.catch_up()
        assert captured.ids() == list(range(1, 10_001))

    def test_kafka_that_is_killed_under_load_loses_nothing(
        self, pipelines: Pipelines, own_kafka: Callable[[], KafkaServer]
    ) -> None:
        kafka = own_kafka()
        captured = Captured(pipelines.new(TABLE, followers=(), kafka_server=kafka).init(), kafka.bootstrap_servers)
        captured.start()
        before = captured.tail().commit_lsn
        with writing(captured, rows=40, transactions=1500):
            assert wait_for(lambda: captured.tail().commit_lsn > before, seconds=20)
            kafka.kill()
            kafka.start()
        captured.catch_up(seconds=60)
        assert captured.ids() == list(range(1, 60_001))
        captured.pipeline.check_running("capture")

    @pytest.mark.long
    def test_while_kafka_hangs_both_capture_and_the_leader_can_end(
        self, pipelines: Pipelines, own_kafka: Callable[[], KafkaServer], own_postgres: OwnPostgres
    ) -> None:
        kafka, server = own_kafka(), own_postgres()
        captured = Captured(
            pipelines.new(TABLE, leader=server, followers=(), kafka_server=kafka).init(), kafka.bootstrap_servers
        )
        captured.start()
        captured.insert(1, 10)
        captured.catch_up()
        kafka.pause()
        captured.insert(11, 10)
        assert seconds_of(lambda: server.stop("fast")) < 20
        server.start()
        captured.insert(21, 10)
        assert wait_for(lambda: "interrupted" in captured.pipeline.log_of("capture"), seconds=20)
        assert seconds_of(lambda: captured.pipeline.group.stop("capture")) < 10.5
        kafka.resume()
        captured.start()
        captured.catch_up(seconds=60)
        assert captured.ids() == list(range(1, 31))


def seconds_of(call: Callable[[], object]) -> float:
    started = time.monotonic()
    call()
    return time.monotonic() - started


@contextmanager
def writing(captured: Captured, rows: int, transactions: int) -> Iterator[None]:
    """Inserts in a thread meanwhile, all that was asked for."""
    thread = threading.Thread(target=captured.insert, args=(1, rows, transactions))
    thread.start()
    try:
        yield
    finally:
        thread.join()
