"""What of the Kafka client is not in its documentation, and used all the same."""

from __future__ import annotations

from collections.abc import Callable

from cdc.local import KafkaServer
from cdc.local.processes import wait_for
from connectors.kafka.producer import LogProducer
from connectors.kafka.settings import common_settings
from tests.support.topic import Topic


def test_what_is_sent_leaves_at_once_and_else_lingers(kafka: KafkaServer) -> None:
    topic = Topic(kafka, "sent.log")
    topic.create()
    settings = common_settings(kafka.bootstrap_servers, "test", {"linger.ms": "60000"})
    with LogProducer(settings, topic.name, 1_000_000) as producer:
        for progress in (1, 2):
            producer.publish([(b"key", b"value")], progress)
            assert not arrives(producer, progress, lambda: producer.poll(0), seconds=0.5)
            assert arrives(producer, progress, producer.send, seconds=20)


def arrives(producer: LogProducer, progress: int, meanwhile: Callable[[], None], seconds: float) -> bool:
    def arrived() -> bool:
        meanwhile()
        return producer.delivered == progress

    return wait_for(arrived, seconds=seconds)
