"""The topic that holds the log: made once by `cdc init`, described before every use."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType
from confluent_kafka.cimpl import NewTopic

from cdc.capture_ports import TopicFacts
from cdc.errors import CdcError, CheckError, LogError, RetryableError
from connectors.kafka.errors import NO_SUCH_TOPIC_REMEDY, Refusal, translate
from connectors.kafka.settings import QUIET, Settings

_REQUEST_SECONDS = 5.0
"""Short: a daemon that is told to stop waits for it."""
_CREATE_SECONDS = 30.0
_LATE_SECONDS = 5.0
"""A client may be late with saying that a request was not answered in time: on a busy machine, when brokers go."""
_VISIBLE_SECONDS = 15.0
_ASK_TIMES, _ASK_AGAIN_SECONDS = 5, 0.5
"""A broker that has just started may not know its topics yet."""
_NO_TOPIC_ID = ("AAAAAAAAAAAAAAAAAAAAAA", "")


@dataclass(frozen=True, slots=True)
class TopicSettings:
    """How `create` makes the topic."""

    replication_factor: int = 3
    min_insync_replicas: int = 2
    retention_ms: int = 7 * 24 * 3600 * 1000
    """Must exceed the longest outage of a follower."""
    max_message_bytes: int = 1048588
    """Kafka's own default; larger records are split."""


class LogAdmin:
    """Creates and describes the topic of one log. The client lives as long as its futures."""

    def __init__(
        self,
        settings: Mapping[str, str | int | float | bool],
        topic: str,
        topic_settings: TopicSettings | None = None,
    ) -> None:
        """`settings` from `common_settings`; `topic_settings` only matter to `create`."""
        self._topic = topic
        self._topic_settings = topic_settings or TopicSettings()
        self._where = f"topic {topic}"
        self._settings = _admin_settings(settings)
        self._client = self._new_client()

    def check_creatable(self) -> None:
        """Raises CheckError when the cluster would refuse to make the topic (too few brokers, not permitted)."""
        self._create(validate_only=True)

    def create(self) -> bool:
        """Make the topic with one partition; False when it exists. Returns once it can be described.

        Raises CheckError when the cluster refuses.
        """
        if not self._create(validate_only=False):
            return False
        self._wait_until_described()
        return True

    def describe(self) -> TopicFacts:
        """Raises LogError when the topic does not exist, after asking again for some seconds."""
        for _ in range(_ASK_TIMES):
            facts = self.find()
            if facts is not None:
                return facts
            time.sleep(_ASK_AGAIN_SECONDS)
        raise LogError("the topic does not exist", NO_SUCH_TOPIC_REMEDY, self._where)

    def find(self) -> TopicFacts | None:
        """None when the topic does not exist. Raises RetryableError when no broker answers."""
        try:
            asked = self._client.describe_topics(TopicCollection([self._topic]), request_timeout=_REQUEST_SECONDS)
            described = self._answer(asked[self._topic], _REQUEST_SECONDS)
            config = self._config()
        except KafkaException as error:
            if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                return None
            explained = self._explained(translate(error, self._where))
            # A client goes on asking the broker that it took for the controller, however long that one is dead.
            self._client = self._new_client()
            raise explained from error
        topic_id = str(described.topic_id)
        return TopicFacts(
            topic_id=None if topic_id in _NO_TOPIC_ID else topic_id,
            partitions=len(described.partitions),
            cleanup_policy=config.get("cleanup.policy", "delete"),
            max_message_bytes=int(config.get("max.message.bytes", "1048588")),
            retention_ms=int(config.get("retention.ms", "-1")),
            retention_bytes=int(config.get("retention.bytes", "-1")),
            unclean_election=config.get("unclean.leader.election.enable", "false") == "true",
            wanted_retention_ms=self._topic_settings.retention_ms,
            min_insync_replicas=int(config.get("min.insync.replicas", "1")),
            replicas=min(len(partition.replicas) for partition in described.partitions),
            in_sync=min(len(partition.isr) for partition in described.partitions),
            broker_times=config.get("message.timestamp.type") == "LogAppendTime",
        )

    def brokers(self) -> int:
        """How many answer. Raises RetryableError when none does."""
        try:
            described = self._answer(self._client.describe_cluster(request_timeout=_REQUEST_SECONDS), _REQUEST_SECONDS)
        except KafkaException as error:
            raise self._explained(translate(error, self._where)) from error
        return len(described.nodes)

    def _new_client(self) -> AdminClient:
        self._refusal = Refusal()
        settings: dict[str, Any] = {**self._settings, "error_cb": self._refusal.note}
        try:
            return AdminClient(settings, logger=QUIET)
        except KafkaException as error:
            raise translate(error, self._where) from error

    def _explained(self, error: CdcError) -> CdcError:
        self._client.poll(0)  # the client says why while it is polled only
        return self._refusal.explain(error)

    def _create(self, *, validate_only: bool) -> bool:
        settings = self._topic_settings
        new = NewTopic(
            self._topic,
            num_partitions=1,
            replication_factor=settings.replication_factor,
            config={
                "cleanup.policy": "delete",
                "compression.type": "producer",
                "retention.ms": str(settings.retention_ms),
                # By the brokers' clock: a leader's or capture's that is wrong would shorten the retention, and the
                # brokers refuse times that lie an hour ahead of theirs.
                "message.timestamp.type": "LogAppendTime",
                "retention.bytes": "-1",
                "min.insync.replicas": str(settings.min_insync_replicas),
                "max.message.bytes": str(settings.max_message_bytes),
                "unclean.leader.election.enable": "false",
            },
        )
        futures = self._client.create_topics([new], request_timeout=_CREATE_SECONDS, validate_only=validate_only)
        try:
            self._answer(futures[self._topic], _CREATE_SECONDS)
        except KafkaException as error:
            if error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
                return False
            raise self._creation_error(error) from error
        return True

    def _answer(self, future: Future[Any], seconds: float) -> Any:
        """Of a request that was given `seconds`."""
        try:
            return future.result(seconds + _LATE_SECONDS)
        except TimeoutError as error:
            late = RetryableError(
                f"kafka has not answered for {seconds + _LATE_SECONDS:.0f} s",
                "see that the brokers run and can be reached",
                self._where,
            )
            explained = self._explained(late)
            self._client = self._new_client()
            raise explained from error

    def _config(self) -> dict[str, str]:
        resource = ConfigResource(ResourceType.TOPIC, self._topic)
        future = self._client.describe_configs([resource], request_timeout=_REQUEST_SECONDS)[resource]
        entries: dict[str, Any] = self._answer(future, _REQUEST_SECONDS)
        return {name: entry.value for name, entry in entries.items() if entry.value is not None}

    def _wait_until_described(self) -> None:
        deadline = time.monotonic() + _VISIBLE_SECONDS
        while self.find() is None:
            if time.monotonic() > deadline:
                raise RetryableError("the topic was created and is not visible yet", "try again", self._where)
            time.sleep(0.1)

    def _creation_error(self, error: KafkaException) -> Exception:
        code = error.args[0].code()
        if code in (KafkaError.INVALID_REPLICATION_FACTOR, KafkaError.INVALID_CONFIG, KafkaError.POLICY_VIOLATION):
            return CheckError(
                f"the cluster does not create the topic: {error.args[0].str()}",
                "fewer replicas than brokers are possible: set kafka.replication_factor and kafka.min_insync_replicas",
                self._where,
            )
        return self._explained(translate(error, self._where))


def _admin_settings(settings: Mapping[str, str | int | float | bool]) -> Settings:
    foreign = ("group.id", "fetch.", "queued.", "linger.ms", "compression.", "batch.")
    return {name: value for name, value in settings.items() if not name.startswith(foreign)}
