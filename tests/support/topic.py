"""The topic of a group in the hands of somebody with plain clients, and how a daemon ends that cannot go on."""

from __future__ import annotations

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType
from confluent_kafka.cimpl import NewTopic

from cdc.local import KafkaServer
from cdc.local.processes import wait_for
from tests.support.pipeline import Pipeline

Value = bytes
Raw = tuple[bytes | None, Value]


class Topic:
    """The topic of a group as somebody with plain clients sees it, and may change it."""

    def __init__(self, kafka: KafkaServer, name: str) -> None:
        self.name = name
        self._servers: dict[str, str | int | float | bool] = {
            "bootstrap.servers": kafka.bootstrap_servers,
            "log_level": 0,
        }
        self._admin = AdminClient(self._servers)

    def records(self) -> list[Raw]:
        consumer = Consumer({**self._servers, "group.id": "test", "enable.auto.commit": False})
        try:
            low, high = consumer.get_watermark_offsets(TopicPartition(self.name, 0), 10)
            consumer.assign([TopicPartition(self.name, 0, low)])
            found: list[Raw] = []

            def read() -> bool:
                for message in consumer.consume(1000, 0.5):
                    assert message.error() is None
                    found.append((message.key(), message.value() or b""))
                return len(found) >= high - low

            assert wait_for(read, seconds=20), "the topic cannot be read"
            return found
        finally:
            consumer.close()

    def create(self) -> None:
        self._admin.create_topics([NewTopic(self.name, 1, 1)])[self.name].result(20)

    def high_watermark(self) -> int:
        """The offset that the next record gets."""
        consumer = Consumer({**self._servers, "group.id": "test", "enable.auto.commit": False})
        try:
            return int(consumer.get_watermark_offsets(TopicPartition(self.name, 0), 20)[1])
        finally:
            consumer.close()

    def append(self, *records: Raw) -> int:
        """The offset of the first of them."""
        offsets: list[int] = []
        producer = Producer(self._servers)
        for key, value in records:
            producer.produce(
                self.name, value, key, partition=0, on_delivery=lambda _, message: offsets.append(message.offset() or 0)
            )
        assert producer.flush(10) == 0
        return offsets[0]

    def set(self, **config: str) -> None:
        """Change settings of the topic; dots of their names are written as underscores."""
        entries = [
            ConfigEntry(name.replace("_", "."), value, incremental_operation=AlterConfigOpType.SET)
            for name, value in config.items()
        ]
        resource = ConfigResource(ResourceType.TOPIC, self.name, incremental_configs=entries)
        self._admin.incremental_alter_configs([resource])[resource].result(20)

    def delete_records_before(self, offset: int) -> None:
        for future in self._admin.delete_records([TopicPartition(self.name, 0, offset)]).values():
            future.result(10)

    def exists(self) -> bool:
        return self.name in self._admin.list_topics(timeout=10).topics

    def delete(self) -> None:
        self._admin.delete_topics([self.name])[self.name].result(20)
        assert wait_for(lambda: not self.exists(), seconds=20), "the topic is not deleted"

    def replace(self, *records: Raw) -> None:
        """Deleted, and made anew with other records."""
        self.delete()
        self._admin.create_topics([NewTopic(self.name, 1, 1)])[self.name].result(20)
        if records:
            self.append(*records)


def fatal(pipeline: Pipeline, name: str, *words: str) -> str:
    """The daemon ends by itself with code 4 and one line that holds these words."""
    assert pipeline.ends(name) == 4, pipeline.group.tail_of_logs()
    lines = [line for line in pipeline.log_of(name).splitlines() if line.startswith("cdc: ")]
    assert "Traceback" not in pipeline.log_of(name)
    for word in (*words, "To do: "):
        assert word in lines[-1]
    return lines[-1]
