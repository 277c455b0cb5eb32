"""How much the reader of the log takes at once."""

from __future__ import annotations

import time
import uuid

from cdc.local import KafkaServer
from cdc.local.processes import wait_for
from connectors.kafka.consumer import LogReader
from connectors.kafka.producer import LogProducer
from connectors.kafka.settings import common_settings
from tests.support.topic import Topic

SMALL = [(b"key", b"small")] * 3
LARGE = [(b"key", b"large" * 100_000)] * 40
"""Alike, so that one answer of the broker holds them all."""


def test_of_large_records_a_few_are_taken_at_once_though_all_have_come(kafka: KafkaServer) -> None:
    topic = Topic(kafka, f"large{uuid.uuid4().hex[:8]}.log")
    topic.create()
    settings = common_settings(kafka.bootstrap_servers, "test")
    with LogProducer(settings, topic.name, 1_000_000) as producer:
        producer.publish(SMALL + LARGE, 1)
        assert wait_for(lambda: producer.flush(1.0), seconds=30)
    with LogReader(settings, topic.name) as reader:
        reader.seek(0)
        taken = [len(reader.consume(1, 20.0))]
        time.sleep(1.0)  # in which the client fetches them
        while sum(taken) < len(SMALL + LARGE):
            taken.append(len(reader.consume(2_000, 20.0)))
    assert max(taken) <= 16
