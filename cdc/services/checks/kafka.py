"""Checks of the cluster and of the topic that holds the log. Kafka's disks no client can see."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TypeAlias

from cdc.capture_ports import TopicFacts
from cdc.check_ports import KafkaFacts
from cdc.errors import NEW_GROUP, CdcError
from cdc.services.checks.check import Checks, Group, Verdict, failed, judged, ok, refused, warning
from cdc.services.guardian import topic_warnings

kafka: Checks[KafkaFacts] = Checks("kafka")

_HOUR_MS = 3_600_000

TopicJudge: TypeAlias = Callable[[TopicFacts, Group], Verdict]


@kafka.check("topic", "it is the log; a topic that was made anew lacks what the old one held")
def topic(facts: KafkaFacts, group: Group) -> Verdict:
    """the topic is the one that `cdc init` made, or can be made"""
    who = None if isinstance(group.leader, CdcError) else group.leader.identity
    if facts.topic is None:
        if who is not None:
            return failed(
                "the topic of this group was deleted", f"a log that was deleted cannot come back: {NEW_GROUP}"
            )
        return judged(facts.refusal, "cdc init makes it, and the cluster would let it")
    if who is None or who.topic_id == facts.topic.topic_id or None in (who.topic_id, facts.topic.topic_id):
        return ok(group.wanted.topic)
    return failed(
        f"the topic was deleted and made anew (id {facts.topic.topic_id}, cdc init saw {who.topic_id})",
        NEW_GROUP,
    )


@kafka.check("log", "what cannot be read cannot be applied")
def log(facts: KafkaFacts, group: Group) -> Verdict | None:
    """its end can be read, and says who leads"""
    if facts.log_problem is not None:
        return refused(facts.log_problem)
    if facts.topic is None:
        return None
    if facts.tail is None:
        return ok("empty; cdc init begins it")
    return ok(f"epoch {facts.tail.epoch}, led by {group.leader_name}, up to {facts.tail.end_lsn}")


def _of_topic(name: str, why: str) -> Callable[[TopicJudge], TopicJudge]:
    """Like `kafka.check`, where there is a topic."""

    def register(judge: TopicJudge) -> TopicJudge:
        @kafka.check(name, why)
        @wraps(judge)
        def of_facts(facts: KafkaFacts, group: Group) -> Verdict | None:
            return None if facts.topic is None else judge(facts.topic, group)

        return judge

    return register


@_of_topic("partitions", "only one partition keeps the order of commits")
def partitions(topic: TopicFacts, group: Group) -> Verdict:
    """the topic has one partition"""
    if topic.partitions == 1:
        return ok("1")
    return failed(f"{topic.partitions} partitions", f"partitions cannot be taken away: {NEW_GROUP}")


@_of_topic("cleanup_policy", "compaction removes changes that followers need")
def cleanup_policy(topic: TopicFacts, group: Group) -> Verdict:
    """`cleanup.policy` is delete"""
    if topic.cleanup_policy == "delete":
        return ok("delete")
    return failed(f"cleanup.policy is {topic.cleanup_policy}", _alter(group, "cleanup.policy=delete"))


@_of_topic("retention", "a follower that is away for longer than the log goes back must be bootstrapped anew")
def retention(topic: TopicFacts, group: Group) -> Verdict:
    """`retention.ms` is at least `kafka.retention_hours`, the longest outage of a follower that is wanted"""
    kept = topic.retention_ms
    fine = "for ever" if kept < 0 else f"{kept / _HOUR_MS:.0f} h"
    return _watched(topic, group, "retention.ms", topic.wanted_retention_ms, fine)


@_of_topic("retention_bytes", "a burst of changes removes what a follower still needs, however short its outage")
def retention_bytes(topic: TopicFacts, group: Group) -> Verdict:
    """`retention.bytes` has no limit"""
    return _watched(topic, group, "retention.bytes", "-1", "no limit")


@kafka.check("replicas", "a record that only one broker has is lost with that broker's disk")
def replicas(facts: KafkaFacts, group: Group) -> Verdict | None:
    """the topic has two replicas or more, and all have what was acknowledged"""
    if facts.topic is None:
        return None
    count, in_sync = facts.topic.replicas, facts.topic.in_sync
    if in_sync < count:
        return warning(f"{in_sync} of {count} replicas have all records", "start the brokers that are away")
    if count < 2:
        return warning(
            f"one replica, on one of {facts.brokers} brokers",
            "kafka-reassign-partitions.sh, with three replicas; for a new group set kafka.replication_factor = 3",
        )
    return ok(f"{count}, all in sync")


@_of_topic("min_insync_replicas", "with 1 a record counts as durable that one broker has; with more than there are, "
             "nothing is taken")  # fmt: skip
def min_insync_replicas(topic: TopicFacts, group: Group) -> Verdict:
    """`min.insync.replicas` is 2 or more, and fewer than there are replicas"""
    least, count = topic.min_insync_replicas, topic.replicas
    possible = max(1, topic.in_sync)
    if least > possible:
        return failed(
            f"min.insync.replicas is {least}, and {possible} in sync: no record is taken",
            f"start the brokers that are away; for fewer copies: {_alter(group, f'min.insync.replicas={possible}')}",
        )
    if least < 2:
        return warning("min.insync.replicas is 1", f"with three replicas: {_alter(group, 'min.insync.replicas=2')}")
    if least == count:
        return warning(
            f"min.insync.replicas is {least} of {count} replicas: one broker that is away stops capture",
            "one replica more (kafka-reassign-partitions.sh)",
        )
    return ok(f"{least} of {count}")


@_of_topic("max_message_bytes", "smaller records mean more parts a large change, and more work for readers")
def max_message_bytes(topic: TopicFacts, group: Group) -> Verdict:
    """`max.message.bytes` is at least `kafka.max_record_bytes`"""
    size, wanted = topic.max_message_bytes, group.wanted.max_record_bytes
    if size >= wanted:
        return ok(f"{size}")
    return warning(
        f"max.message.bytes is {size}, kafka.max_record_bytes {wanted}", _alter(group, f"max.message.bytes={wanted}")
    )


@_of_topic(
    "unclean_election", "a broker that lacks acknowledged records may become the partition's leader: they are gone"
)
def unclean_election(topic: TopicFacts, group: Group) -> Verdict:
    """`unclean.leader.election.enable` is false"""
    return _watched(topic, group, "unclean.leader.election.enable", "false", "off")


@_of_topic("timestamps", "by a clock of capture's that is wrong, records are removed too early, or refused")
def timestamps(topic: TopicFacts, group: Group) -> Verdict:
    """`message.timestamp.type` is LogAppendTime"""
    if topic.broker_times:
        return ok("the brokers'")
    return warning("message.timestamp.type is CreateTime", _alter(group, "message.timestamp.type=LogAppendTime"))


def _watched(topic: TopicFacts, group: Group, setting: str, wanted: int | str, fine: str) -> Verdict:
    """A setting that capture's guardian warns of, too."""
    problem = topic_warnings(topic).get(setting)
    return warning(problem, _alter(group, f"{setting}={wanted}")) if problem else ok(fine)


def _alter(group: Group, setting: str) -> str:
    return f"kafka-configs.sh --alter --entity-type topics --entity-name {group.wanted.topic} --add-config {setting}"
