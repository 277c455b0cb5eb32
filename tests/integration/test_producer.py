"""What of the Kafka client is not in its documentation, and used all the same."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable

import pytest

from cdc.errors import CdcError
from cdc.local import KafkaServer
from cdc.local.processes import wait_for
from connectors.kafka.producer import LogProducer
from connectors.kafka.settings import common_settings
from tests.support.topic import Topic


def test_what_is_sent_does_not_linger(kafka: KafkaServer) -> None:
    topic = Topic(kafka, "sent.log")
    topic.create()
    settings = common_settings(kafka.bootstrap_servers, "test", {"linger.ms": "60000"})
    with LogProducer(settings, topic.name, 1_000_000) as producer:
        for progress in (1, 2):
            producer.publish([(b"key", b"value")], progress)
            assert not arrives(producer, progress, lambda: producer.poll(0), seconds=0.5)
            assert arrives(producer, progress, producer.send, seconds=20)


@pytest.mark.parametrize("send", [True, False])
def test_why_the_broker_refuses_a_record_is_told_by_whatever_meets_it(kafka: KafkaServer, send: bool) -> None:
    topic = Topic(kafka, f"refusing{uuid.uuid4().hex[:8]}.log")
    topic.create()
    topic.set(max_message_bytes="1000")
    with LogProducer(common_settings(kafka.bootstrap_servers, "test"), topic.name, 1_000_000) as producer:
        producer.publish([(b"key", os.urandom(5_000))], 1)
        with pytest.raises(CdcError, match="Message size too large"):
            arrives(producer, 1, producer.send if send else lambda: producer.poll(0.01), seconds=20)


def arrives(producer: LogProducer, progress: int, meanwhile: Callable[[], None], seconds: float) -> bool:
    def arrived() -> bool:
        meanwhile()
        return producer.delivered == progress

    return wait_for(arrived, seconds=seconds)
