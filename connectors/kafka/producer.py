"""Writing to the log: in order, never dropped, and known in order to be durable.

HOT PATH: `publish` runs for every batch of records; per record it does one dict.

Order and completeness rest on the idempotent producer with one partition: a record is stored only after
every one before it, and a permanent failure stops the producer (`enable.gapless.guarantee`). So one
callback, on the final record of a batch, speaks for the whole batch. The offset that it reports must, of a
writer that has the log for itself, be as far from the one before as there were records: more means that
somebody else writes, less that the topic was replaced.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from cdc.errors import CdcError, LogError, RetryableError
from cdc.log.parts import split_record
from connectors.kafka.errors import Refusal, translate
from connectors.kafka.settings import QUIET, producer_settings

log = structlog.get_logger(__name__)

PARTITION = 0
_SEND_SECONDS = 0.002
"""For its thread to wake and send. With 5 ms a follower shows nothing sooner (ops/decisions/0016-*.md)."""
_RECORD_OVERHEAD = 128
"""What librdkafka and the broker add to a record's key and value (headers of record and batch)."""


class LogProducer:
    """Publishes records of one log. Not safe for use by several threads."""

    def __init__(
        self,
        settings: Mapping[str, str | int | float | bool],
        topic: str,
        max_message_bytes: int,
        next_offset: int | None = None,
    ) -> None:
        """`settings` from `common_settings`; `max_message_bytes` is the topic's max.message.bytes; `next_offset` is
        the offset that the first record must get, None where others may write beside us."""
        self._topic = topic
        self._where = f"topic {topic}"
        self._max_record_bytes = max_message_bytes - _RECORD_OVERHEAD
        self._split_above = self._max_record_bytes // 2
        self._batches: deque[tuple[int, int, int]] = deque()
        self._alone = next_offset is not None
        self._offset = None if next_offset is None else next_offset - 1
        self._delivered = 0
        self._deliveries = 0
        self._in_flight = 0
        self._error: CdcError | None = None
        self._refusal = Refusal()
        try:
            self._producer = Producer(
                {**producer_settings(settings, max_message_bytes), "error_cb": self._on_error, "logger": QUIET}
            )
        except KafkaException as error:
            raise translate(error, self._where) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def bytes_in_flight(self) -> int:
        """Bytes of values that were published and are not known to be durable."""
        return self._in_flight

    @property
    def delivered(self) -> int:
        """The greatest `progress` such that its batch and every one before it is durable."""
        return self._delivered

    @property
    def deliveries(self) -> int:
        """How many batches are durable; that it grows means that Kafka takes records."""
        return self._deliveries

    def publish(self, records: Sequence[tuple[bytes | None, bytes]], progress: int) -> None:
        """Hand over `records` (key, value), in order; never blocks. `progress` must not decrease.

        A record too large for the broker leaves as parts. Raises LogError when even a part would be too large,
        before anything of the batch is handed over, and what `poll` raises.
        """
        if not records:
            return
        self.poll(0)
        sizes = [len(value) for _, value in records]
        if max(sizes) > self._split_above:
            records = self._split(records)
            sizes = [len(value) for _, value in records]
        size = sum(sizes)
        batch: list[dict[str, Any]] = [{"key": key, "value": value} for key, value in records]
        batch[-1]["callback"] = self._on_delivery
        self._batches.append((len(batch), size, progress))
        self._in_flight += size
        try:
            taken = self._producer.produce_batch(self._topic, batch, partition=PARTITION)
        except (KafkaException, BufferError) as error:
            raise RetryableError("the kafka producer took no record", where=self._where) from error
        if taken != len(batch):
            self._refused(batch)

    def _split(self, records: Sequence[tuple[bytes | None, bytes]]) -> list[tuple[bytes | None, bytes]]:
        try:
            return [part for record in records for part in split_record(record, self._max_record_bytes)]
        except LogError as error:
            raise LogError(error.what, error.remedy, self._where) from error

    def poll(self, timeout: float) -> None:
        """Serve delivery reports, waiting at most `timeout` seconds for the first.

        Raises RetryableError when the producer cannot go on (make another one, after reading the tail of the
        log), LogError or CheckError when an operator must act.
        """
        self._serve(lambda: self._producer.poll(timeout))

    def send(self) -> None:
        """Let what was published leave at once, and not after `linger.ms`: the client does so while somebody waits for
        all of it. If its thread finds no CPU in that time, all is as without it."""
        self.flush(_SEND_SECONDS)

    def flush(self, timeout: float) -> bool:
        """Wait until everything published is durable; False when `timeout` seconds did not suffice."""
        return self._serve(lambda: self._producer.flush(timeout)) == 0

    def close(self) -> None:
        """Drop what is not delivered yet, and end. Does not wait for the brokers."""
        self._producer.purge(in_queue=True, in_flight=True)
        with suppress(KafkaException):  # what was in flight is lost to this client, which it calls fatal
            self._producer.close()

    def _serve(self, call: Callable[[], int]) -> int:
        """Let the client run its callbacks, then raise what they found."""
        try:
            answer = call()
        except (KafkaException, SystemError) as error:
            # A fatal error is not handed to the error callback; `flush` even loses it, and a SystemError is left.
            if self._error is None:
                self._error = translate(error, self._where) if isinstance(error, KafkaException) else self._fatal()
            answer = 0
        if self._error is not None:
            raise self._error
        return answer

    def _refused(self, batch: list[dict[str, Any]]) -> None:
        """Records that were taken after a refused one would make a gap: nothing may leave any more."""
        self._producer.purge(in_queue=True, in_flight=False)
        errors = [record["_error"] for record in batch if "_error" in record]
        fatal = self._error
        if fatal is not None:
            raise fatal
        cause = translate(errors[0], self._where) if errors else None
        if cause is not None and not errors[0].fatal():
            raise cause
        raise RetryableError(f"the kafka producer refused {len(errors)} of {len(batch)} records", where=self._where)

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._fail(error)
            return
        if self._error is not None:
            return
        count, size, progress = self._batches.popleft()
        offset = message.offset()
        if offset is None:
            raise AssertionError("a delivered record without an offset")
        if self._alone and self._offset is not None and offset != self._offset + count:
            self._error = RetryableError(
                f"{count} records ended at offset {offset}, not {self._offset + count}: somebody else writes to the "
                "log, or it was replaced",
                where=self._where,
            )
            return
        self._refusal.forget()
        self._offset = offset
        self._in_flight -= size
        self._delivered = progress
        self._deliveries += 1

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal() or error.code() == KafkaError._FATAL:
            self._fail(error)
        elif not self._refusal.note(error) and error.code() == KafkaError._ALL_BROKERS_DOWN:
            down = translate(error, self._where)
            explained = self._refusal.explain(down)
            if explained is not down:
                # Records would wait here for ever, and nobody would know what for.
                self._error = self._error or explained
                return
            log.warning("no broker can be reached, trying again", topic=self._topic, error=error.str())

    def _fail(self, error: KafkaError) -> None:
        if self._error is None:
            purged = error.code() in (KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT)
            self._error = self._fatal() if purged else translate(error, self._where)

    def _fatal(self) -> CdcError:
        """The client gave up and threw away what it held."""
        return RetryableError(
            "the kafka producer met a fatal error",
            "see that the brokers support idempotent producers (2.8 or newer, with ZooKeeper before 3.3)",
            self._where,
        )
