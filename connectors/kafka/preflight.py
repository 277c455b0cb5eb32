"""What `cdc check` reads of Kafka. Reads only."""

from __future__ import annotations

from cdc.check_ports import KafkaFacts
from cdc.errors import CdcError, LogError, RetryableError
from connectors.kafka.admin import LogAdmin
from connectors.kafka.consumer import LogReader


def read_kafka(admin: LogAdmin, reader: LogReader, depth_bytes: int) -> KafkaFacts:
    """Looks for the log's end as deep as `LogReader.read_tail` is told. Raises RetryableError when no broker answers,
    RefusedError when one refuses us."""
    brokers = admin.brokers()
    topic = admin.find()
    if topic is None:
        return KafkaFacts(None, brokers, refusal=_refusal(admin))
    try:
        tail = reader.read_tail(depth_bytes=depth_bytes)
        return KafkaFacts(topic, brokers, tail=tail, first_offset=reader.watermarks()[0])
    except LogError as error:
        return KafkaFacts(topic, brokers, log_problem=error)


def _refusal(admin: LogAdmin) -> CdcError | None:
    try:
        admin.check_creatable()
    except RetryableError:
        raise
    except CdcError as error:
        return error
    return None
