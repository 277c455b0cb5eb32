"""Bytes of the log are not what they were, or records are gone: nothing is applied past the place, which is named."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from cdc.local import KafkaServer
from cdc.local.kafka import ProcessKafka
from cdc.local.processes import wait_for
from tests.fixtures.pipeline import Pipelines
from tests.support.pausing import paused
from tests.support.pipeline import FOLLOWER, Pipeline, rows_of
from tests.support.topic import Topic, fatal
from tests.support.watched import APPLY

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

TABLE = "CREATE TABLE t (id int PRIMARY KEY, x text)"
IDS = "SELECT id FROM t ORDER BY id"


def published(pipeline: Pipeline) -> None:
    """Wait until the log holds what is committed now."""
    query = (
        f"SELECT confirmed_flush_lsn > '0/0'::pg_lsn + {pipeline.mark()} FROM pg_replication_slots "
        f"WHERE slot_name = '{pipeline.group.slot}'"
    )
    assert wait_for(lambda: rows_of(pipeline.leader, query) == [(True,)], seconds=60), pipeline.group.tail_of_logs()


def damage_last_batch(segment: Path) -> int:
    """Turn one bit of the newest batch of records; the offset of its first record."""
    data = bytearray(segment.read_bytes())
    at = newest = 0
    while at + 12 <= len(data) and (length := struct.unpack_from(">i", data, at + 8)[0]) > 0:
        newest, at = at, at + 12 + length
    data[at - 1] ^= 1
    segment.write_bytes(data)
    return int(struct.unpack_from(">q", data, newest)[0])


@pytest.mark.long
def test_a_bit_that_turned_in_the_log_stops_both_daemons_before_it(
    pipelines: Pipelines, own_kafka: Callable[[], KafkaServer]
):
    # Given a log of which the follower has not seen the end.
    kafka = own_kafka()
    if not isinstance(kafka, ProcessKafka):
        pytest.skip("the files of a Kafka in a container are elsewhere")
    pipeline = pipelines.new(TABLE, kafka_server=kafka).init().bootstrap().start()
    pipeline.execute("INSERT INTO t VALUES (1, 'read before')")
    pipeline.catch_up()
    assert pipeline.group.stop(APPLY) == 0
    position = pipeline.position()
    pipeline.execute("INSERT INTO t VALUES (2, 'read too late')")
    published(pipeline)
    assert pipeline.group.stop("capture") == 0

    # When one bit of it turns.
    kafka.stop()
    segment = kafka.log_path.parent / "data" / f"{pipeline.group.topic}-0" / f"{0:020}.log"
    offset = damage_last_batch(segment)
    kafka.start()

    # Then whoever reads it says where, and goes no further.
    pipeline.start_capture()
    pipeline.start_apply()
    for name in ("capture", APPLY):
        fatal(pipeline, name, f"from offset {offset} on", "their checksum is wrong")
    assert pipeline.position() >= position
    assert rows_of(pipeline.followers[FOLLOWER], IDS) in ([(1,)], [(1,), (2,)])


def test_records_that_are_removed_under_a_running_applier_stop_it_and_are_named(
    pipelines: Pipelines, kafka: KafkaServer
):
    pipeline = pipelines.new(TABLE).init().bootstrap().start()
    pipeline.execute("INSERT INTO t VALUES (1, 'seen')")
    pipeline.catch_up()
    topic = Topic(kafka, pipeline.group.topic)
    with paused(pipeline.group.daemon(APPLY)):
        for i in range(2, 12):
            pipeline.execute(f"INSERT INTO t VALUES ({i}, 'not seen')")
        published(pipeline)
        low = topic.high_watermark()
        topic.delete_records_before(low)
    fatal(
        pipeline, APPLY, f"to {low - 1} were removed from the log before they were read", "raise the topic's retention"
    )
    ids = [i for (i,) in rows_of(pipeline.followers[FOLLOWER], IDS)]
    assert ids == list(range(1, len(ids) + 1)), "what was read before is whole and in order"
    assert 11 not in ids
    position = pipeline.position()
    pipeline.execute("INSERT INTO t VALUES (12, 'after them')")
    published(pipeline)
    pipeline.start_apply()
    fatal(pipeline, APPLY, "missing in the log", "bootstrap this follower anew")
    assert pipeline.position() == position


@pytest.mark.long
def test_an_applier_whose_log_lost_its_end_stops_and_says_so(pipelines: Pipelines, kafka: KafkaServer):
    pipeline = pipelines.new(TABLE).init().bootstrap().start()
    for i in range(1, 6):
        pipeline.execute(f"INSERT INTO t VALUES ({i}, 'row')")
    pipeline.catch_up()
    assert pipeline.group.stop("capture") == 0
    assert pipeline.group.stop(APPLY) == 0
    topic = Topic(kafka, pipeline.group.topic)
    records = topic.records()
    topic.replace(*records[: len(records) // 2])
    position = pipeline.position()
    pipeline.start_apply()
    fatal(pipeline, APPLY, "the log ends at", "acknowledged records are gone", "start a new group")
    assert pipeline.position() == position
