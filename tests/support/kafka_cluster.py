"""Three brokers on this machine, any of which a test may kill or pause."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

from confluent_kafka.admin import AdminClient

from cdc.local.apache_kafka import ApacheKafka
from cdc.local.kafka import GivenKafka, KafkaServer
from cdc.local.kafka_choice import apache_kafka_cluster
from cdc.local.processes import wait_for

NODES = 3
REPLICATED: dict[str, int | str] = {"replication_factor": NODES, "min_insync_replicas": 2}
"""For the `[kafka]` section of a group: one broker may be gone."""


class KafkaCluster:
    """Brokers have the ids 1 to 3, each broker and controller. Ends with the `with`."""

    def __init__(self) -> None:
        self._nodes = dict(enumerate(apache_kafka_cluster(NODES), 1))
        self.bootstrap_servers = ",".join(node.bootstrap_servers for node in self._nodes.values())

    def as_given(self) -> KafkaServer:
        """For a group of a test, which never stops it."""
        return GivenKafka(self.bootstrap_servers)

    def node(self, number: int) -> ApacheKafka:
        return self._nodes[number]

    def others(self, number: int) -> list[int]:
        return [other for other in self._nodes if other != number]

    def leader_of(self, topic: str) -> int | None:
        """The broker that leads its only partition; None when nobody does."""
        leader = self._partition(topic)[0]
        return leader if leader in self._nodes else None

    def in_sync(self, topic: str) -> set[int]:
        return self._partition(topic)[1]

    def wait_in_sync(self, topic: str, *numbers: int, seconds: float = 60.0) -> None:
        """Until exactly these brokers, or all, hold everything that the topic's partition holds."""
        wanted = set(numbers or self._nodes)
        assert wait_for(lambda: self.in_sync(topic) == wanted, seconds=seconds, pause=0.2), self.in_sync(topic)

    def start(self) -> Self:
        self._all(ApacheKafka.start)
        return self

    def close(self) -> None:
        self._all(ApacheKafka.close)

    def _all(self, call: Callable[[ApacheKafka], object]) -> None:
        with ThreadPoolExecutor(NODES) as pool:
            for done in [pool.submit(call, node) for node in self._nodes.values()]:
                done.result()

    def _partition(self, topic: str) -> tuple[int, set[int]]:
        running = ",".join(node.bootstrap_servers for node in self._nodes.values() if node.running)
        partition = AdminClient({"bootstrap.servers": running, "log_level": 0}).list_topics(topic, timeout=10)
        found = partition.topics[topic].partitions.get(0)
        return (found.leader, set(found.isrs)) if found else (-1, set())

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
