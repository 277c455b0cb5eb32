"""Kafka is gone, hangs, is full, or takes less than before: the slot keeps what the log does not take."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator

import pytest

from cdc.errors import RetryableError
from cdc.local import KafkaServer
from cdc.local.kafka import ProcessKafka
from cdc.local.processes import wait_for
from connectors.kafka.consumer import LogReader
from connectors.kafka.settings import common_settings
from tests.fixtures.pipeline import Pipelines
from tests.fixtures.servers import durable_kafka
from tests.support.bank import BANK
from tests.support.disk import small_disk
from tests.support.log import accepted, read_log
from tests.support.pipeline import QUICK_HEARTBEAT, Pipeline, rows_of
from tests.support.topic import Topic, fatal
from tests.support.watched import APPLY, DAEMONS, MEGABYTE, peak_memory, recovers, watched_bank

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

BULK = "CREATE TABLE bulk (id int PRIMARY KEY, x text)"
IN_FLIGHT = 4 * MEGABYTE
TELLING_SECONDS = 2.0
"""Afterwards the slot is where capture wants it: what Kafka had acknowledged before it died may still be confirmed."""


@pytest.fixture(scope="module")
def mortal_kafka() -> Iterator[KafkaServer]:
    """A Kafka that tests of this module may kill and pause."""
    with durable_kafka() as server:
        yield server


@pytest.fixture
def pipeline(mortal_kafka: KafkaServer, module_pipelines: Pipelines) -> Pipeline:
    """The bank on a leader, and everything running."""

    def build() -> Pipeline:
        extra = f"{QUICK_HEARTBEAT}\nmax_in_flight_bytes = {IN_FLIGHT}"
        return module_pipelines.new(*BANK, BULK, kafka_server=mortal_kafka, extra=extra).init().bootstrap().start()

    return module_pipelines.kept("bank", build)


def add_bulk(pipeline: Pipeline, megabytes: int) -> None:
    """A transaction of so much, in rows of a kilobyte."""
    pipeline.execute(
        "INSERT INTO bulk SELECT coalesce((SELECT max(id) FROM bulk), 0) + i, repeat(md5(i::text), 32) "
        f"FROM generate_series(1, {megabytes * 1024}) i"
    )


def confirmed(pipeline: Pipeline) -> str:
    query = f"SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '{pipeline.group.slot}'"
    return str(rows_of(pipeline.leader, query)[0][0])


def complaints(pipeline: Pipeline) -> int:
    """How often capture has said that it cannot go on for the moment."""
    said = pipeline.log_of("capture")
    return said.count("the log takes no records") + said.count("interrupted, trying again")


def wait_until_capture_complains(pipeline: Pipeline, before: int) -> None:
    """Within 30 seconds of a fault that holds everything up."""
    assert wait_for(lambda: complaints(pipeline) > before, seconds=30), pipeline.group.tail_of_logs()


def test_a_broker_that_does_not_say_where_the_log_ends_costs_its_reader_no_record(mortal_kafka: KafkaServer):
    # Given a reader that has some records of many; the client has fetched the others already.
    topic = Topic(mortal_kafka.start(), f"ends-{uuid.uuid4().hex[:8]}.log")
    topic.create()
    topic.append(*[(None, b"%d" % number) for number in range(300)])
    with LogReader(common_settings(mortal_kafka.bootstrap_servers, "test", {}), topic.name, 0.2) as reader:
        reader.seek(0)
        read = reader.consume(10, 20.0)
        assert 0 < len(read) < 300

        # When it asks for the log's end in vain, and goes on reading.
        mortal_kafka.pause()
        try:
            for _ in range(3):
                with pytest.raises(RetryableError):
                    reader.watermarks()
        finally:
            mortal_kafka.resume()

        def has_all() -> bool:
            read.extend(reader.consume(100, 1.0))
            return len(read) >= 300

        assert wait_for(has_all, seconds=20)

    # Then each record was handed over, in order.
    assert [message.offset() for message in read] == list(range(300))


def test_a_dead_broker_holds_the_slot_and_capture_takes_no_more_than_it_may(
    pipeline: Pipeline, mortal_kafka: KafkaServer
):
    capture = pipeline.group.daemon("capture").pid
    add_bulk(pipeline, 20)
    pipeline.catch_up()
    with watched_bank(pipeline, mortal_kafka.bootstrap_servers) as bank:
        before, told = peak_memory(capture), complaints(pipeline)
        mortal_kafka.kill()
        try:
            time.sleep(TELLING_SECONDS)
            held = confirmed(pipeline)
            add_bulk(pipeline, 40)
            bank.transacts(50)
            wait_until_capture_complains(pipeline, told)
            assert confirmed(pipeline) == held
        finally:
            mortal_kafka.start()
        recovers(pipeline, "broker killed")
        grown = peak_memory(capture) - before
        print(f"capture grew by {grown / MEGABYTE:.0f} MB")
        assert grown < 64 * MEGABYTE
    assert accepted(read_log(mortal_kafka.bootstrap_servers, pipeline.group.topic, seconds=60))


@pytest.mark.parametrize(
    "seconds",
    [
        8,
        pytest.param(20, marks=pytest.mark.long),
        pytest.param(150, marks=[pytest.mark.long, pytest.mark.timeout(600)]),
    ],
)
def test_a_broker_that_hangs_is_waited_for_and_the_order_is_kept(
    pipeline: Pipeline, mortal_kafka: KafkaServer, seconds: int
):
    told = complaints(pipeline)
    with watched_bank(pipeline, mortal_kafka.bootstrap_servers) as bank:
        mortal_kafka.pause()
        try:
            end = time.monotonic() + seconds
            bank.transacts(50)
            wait_until_capture_complains(pipeline, told)
            time.sleep(max(0.0, end - time.monotonic()))
            pipeline.check_running(*DAEMONS)
        finally:
            mortal_kafka.resume()
        recovers(pipeline, f"broker hung for {seconds} s", seconds=60)
    assert accepted(read_log(mortal_kafka.bootstrap_servers, pipeline.group.topic, seconds=60))


def test_a_limit_that_is_lowered_behind_our_back_makes_parts_and_stops_capture_where_not_even_these_fit(
    pipelines: Pipelines, kafka: KafkaServer
):
    pipeline = pipelines.new(BULK, "CREATE TABLE named (id text PRIMARY KEY)").init().bootstrap().start()
    pipeline.execute("INSERT INTO bulk VALUES (1, 'small')", "INSERT INTO named VALUES ('small')")
    pipeline.catch_up()
    topic = Topic(kafka, pipeline.group.topic)

    topic.set(max_message_bytes="3000")
    add_bulk(pipeline, 1)
    pipeline.execute("UPDATE bulk SET x = repeat('a large one', 1000) WHERE id = 1")
    pipeline.catch_up()
    pipeline.assert_equal()
    assert any(event["cdc"].get("kind") == "part" for event in read_log(kafka.bootstrap_servers, pipeline.group.topic))

    pipeline.execute("INSERT INTO named SELECT string_agg(md5(i::text), '') FROM generate_series(1, 75) i")
    fatal(pipeline, "capture", f"topic {pipeline.group.topic}", "too small to hold parts", "raise max.message.bytes")
    held = confirmed(pipeline)
    pipeline.start_capture()
    fatal(pipeline, "capture", "too small to hold parts")
    assert confirmed(pipeline) == held
    pipeline.check_running(APPLY)

    topic.set(max_message_bytes="100000")
    pipeline.start_capture()
    pipeline.catch_up()
    pipeline.assert_equal()


@pytest.mark.long
def test_a_topic_that_is_deleted_while_all_runs_ends_both_daemons_and_is_not_made_anew(
    pipelines: Pipelines, kafka: KafkaServer
):
    pipeline = pipelines.new(BULK).init().bootstrap().start()
    add_bulk(pipeline, 1)
    pipeline.catch_up()
    topic, position = Topic(kafka, pipeline.group.topic), pipeline.position()
    topic.delete()
    pipeline.execute("INSERT INTO bulk VALUES (-1, 'nowhere to go')")
    for name in DAEMONS:
        fatal(pipeline, name, "the topic does not exist", "start a new group")
    assert not topic.exists()
    assert pipeline.position() >= position


@pytest.mark.long
def test_a_broker_whose_disk_is_full_holds_the_slot_until_there_is_space(pipelines: Pipelines):
    kafka = durable_kafka()
    if not isinstance(kafka, ProcessKafka):
        pytest.skip("a Kafka in a container has its disk elsewhere")
    with small_disk(kafka.log_path.parent / "data", 96 * MEGABYTE) as disk, kafka:
        pipeline = pipelines.new(*BANK, BULK, kafka_server=kafka).init().bootstrap().start()
        told = complaints(pipeline)
        with watched_bank(pipeline, kafka.bootstrap_servers) as bank:
            bank.transacts(20)
            disk.fill()
            add_bulk(pipeline, 8)
            assert wait_for(lambda: not kafka.running, seconds=60), "a broker whose only disk fails ends"
            held = confirmed(pipeline)
            bank.transacts(50)
            wait_until_capture_complains(pipeline, told)
            assert confirmed(pipeline) == held
            disk.free()
            kafka.start()
            recovers(pipeline, "broker with a full disk", seconds=60)
        pipeline.close()
