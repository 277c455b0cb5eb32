"""The log as any Kafka consumer sees it, and what its rules of reading make of it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import orjson
from confluent_kafka import Consumer, TopicPartition

from cdc.log.chain import Chain, Verdict
from cdc.log.parts import PartJoiner

Event = dict[str, Any]


def read_log(bootstrap_servers: str, topic: str, seconds: float = 20.0) -> list[Event]:
    """Every record that is in the topic now, as it lies there."""
    consumer = Consumer(
        {"bootstrap.servers": bootstrap_servers, "group.id": "test", "enable.auto.commit": False, "log_level": 0}
    )
    try:
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, 0), seconds)
        consumer.assign([TopicPartition(topic, 0, low)])
        values: list[bytes] = []
        deadline = time.monotonic() + seconds
        while len(values) < high - low:
            assert time.monotonic() < deadline, f"{len(values)} of {high - low} records read in {seconds:g} s"
            for message in consumer.consume(5000, 0.2):
                assert message.error() is None
                values.append(message.value() or b"")
        return [orjson.loads(value) for value in values[: high - low]]
    finally:
        consumer.close()


def whole(events: Sequence[Event]) -> Iterator[Event]:
    """The records with split ones put together."""
    joiner = PartJoiner()
    for event in events:
        if event["cdc"].get("kind") != "part":
            yield event
            continue
        value = joiner.add(event["cdc"], event["message"]["content"])
        if value is not None:
            yield orjson.loads(value)


def accepted(events: Sequence[Event]) -> list[Event]:
    """The numbered records that a reader from the beginning accepts, each once. A gap raises ChainGapError."""
    chain = Chain(0, 0)
    taken = []
    for event in whole(events):
        cdc = event["cdc"]
        if "seq" not in cdc:
            continue
        verdict = chain.accept(
            cdc["epoch"], cdc["commit_lsn"], cdc["prev"], cdc["seq"], cdc.get("last", False), cdc.get("prev_epoch")
        )
        if verdict is Verdict.NEXT:
            taken.append(event)
    return taken


def changes(events: Sequence[Event], table: str) -> list[Event]:
    """Of `events`, the changes of the rows of one table."""
    return [event for event in events if event["op"] in "cud" and event["source"]["table"] == table]


def names(events: Sequence[Event]) -> list[tuple[int, int]]:
    """(commit LSN, seq) of the numbered records that are not parts."""
    cdcs = [event["cdc"] for event in events]
    return [(cdc["commit_lsn"], cdc["seq"]) for cdc in cdcs if "seq" in cdc and cdc.get("kind") != "part"]
