"""Reading the log: one topic, one partition, from an offset that the caller knows; nothing is ever reset.

Consumer groups play no part: the partition is assigned by hand and no offset is committed (followers
keep their own position). A topic or an offset that is gone is an error, never a jump.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from cdc.errors import NEW_GROUP, CdcError, LogError, RetryableError
from cdc.log.records import parse, place_of
from cdc.log.tail import LogTail, TailScan
from cdc.promotion_ports import EpochStart
from connectors.kafka.errors import NO_SUCH_TOPIC_REMEDY, Refusal, translate
from connectors.kafka.settings import QUIET, consumer_settings

log = structlog.get_logger(__name__)

PARTITION = 0
_FIRST_SLICE, _SLICE = 8, 100
_CONSUME_BYTES = 4 * 2**20
"""The client bounds by number only, and hands over copies: parts of large values may be a megabyte each."""
REQUEST_SECONDS = 5.0
_TAIL_SECONDS = 120.0
"""Enough to read an incomplete transaction of ten million rows backwards."""
_TAIL_FIRST_STEP = 500
_TAIL_STEP_GROWTH = 4
_OUT_OF_RANGE = (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._LOG_TRUNCATION)
_PASSING = (
    KafkaError._TRANSPORT,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._RESOLVE,
    KafkaError._PARTITION_EOF,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
)
"""Reported in passing while the client goes on by itself. It looks for the coordinator of the group that it insists on
having, which nobody uses, so that nobody needs a right to it."""
_BETWEEN_LEADERS = (KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE)
"""For a moment, of a topic that was just made as well: the broker that is to lead it does not know so yet."""
_ASK_AGAIN_SECONDS = 0.1
_SILENT_SECONDS = 10.0
"""Without a record, after which the broker is asked whether there are any. Heartbeats come far more often."""


@dataclass
class _Window:
    """What is read of a log that goes from `low` to `high`: from `start` on, `size` bytes of values so far."""

    low: int
    high: int
    deadline: float
    on_wait: Callable[[], None]
    start: int = 0
    size: int = 0

    def next_step(self, depth_bytes: int) -> int:
        """How many records to go back from the end next time: as many as have `depth_bytes` if all are alike."""
        records = self.high - self.start
        if depth_bytes <= self.size:
            return records * _TAIL_STEP_GROWTH
        return max(records * 2, records * depth_bytes // max(self.size, 1) + 1)


class LogReader:
    """Reads the records of one log in order. Not safe for use by several threads."""

    def __init__(
        self,
        settings: Mapping[str, str | int | float | bool],
        topic: str,
        answer_seconds: float = REQUEST_SECONDS,
    ) -> None:
        """`settings` from `common_settings`. Connects lazily: the first call that needs the broker fails, when it has
        not answered for `answer_seconds`."""
        self._topic = topic
        self._answer_seconds = answer_seconds
        self._where = f"topic {topic}"
        self._offset = 0
        self._early: list[Message] = []
        """What came while something else was asked for."""
        self._refusal = Refusal()
        try:
            self._consumer = Consumer({**consumer_settings(settings), "error_cb": self._on_error, "logger": QUIET})
        except KafkaException as error:
            raise translate(error, self._where) from error
        self._client_error: KafkaError | None = None
        self._heard_at = time.monotonic()
        self._due_offset: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def seek(self, offset: int) -> None:
        """The next `consume` begins at `offset`. Checked against the topic when the records are fetched."""
        self._offset = offset
        self._early.clear()
        self._heard_at, self._due_offset = time.monotonic(), None
        self._consumer.assign([TopicPartition(self._topic, PARTITION, offset)])

    def consume(self, limit: int, timeout: float) -> list[Message]:
        """Up to `limit` records in log order, fewer once they are some megabytes, without waiting for more when there
        are some.

        Empty after `timeout` seconds. Raises LogError when the offset is out of range or the topic is gone,
        CheckError when the broker refuses us, RetryableError for a client that cannot go on by itself.
        """
        messages, self._early = self._early, []
        messages = messages or self._consumer.consume(min(limit, _FIRST_SLICE), 0) or self._consumer.consume(1, timeout)
        size = _size(messages)
        while 0 < len(messages) < limit and size < _CONSUME_BYTES:
            # The next may be larger than those before: no more of them than are known, or than would fill the rest.
            alike = (_CONSUME_BYTES - size) * len(messages) // max(size, 1) + 1
            known = max(_FIRST_SLICE, len(messages))
            more = self._consumer.consume(min(limit - len(messages), _SLICE, known, alike), 0)
            if not more:
                break
            messages += more
            size += _size(more)
        if not messages:
            self._raise_client_error()
            self._watch_silence()
            return messages
        records = [message for message in messages if message.error() is None]
        if len(records) < len(messages):
            self._check_errors(messages)
        if records:
            self._client_error = self._due_offset = None
            self._refusal.forget()
            self._heard_at = time.monotonic()
            self._offset = int(records[-1].offset() or 0) + 1
        return records

    def watermarks(self) -> tuple[int, int]:
        """(low, high): offset of the first record, and the offset that the next record gets."""
        deadline = time.monotonic() + self._answer_seconds
        while True:
            try:
                low_high = self._consumer.get_watermark_offsets(
                    TopicPartition(self._topic, PARTITION), self._answer_seconds
                )
                break
            except KafkaException as error:
                if error.args[0].code() in _BETWEEN_LEADERS and time.monotonic() < deadline:
                    time.sleep(_ASK_AGAIN_SECONDS)
                    continue
                if error.args[0].code() == KafkaError._UNKNOWN_PARTITION:
                    self._check_topic()
                raise self._explained(translate(error, self._where)) from error
        if low_high is None:
            raise self._explained(RetryableError("the offsets of the log are not known in time", where=self._where))
        return low_high

    def known_end(self) -> int:
        """The offset that the next record gets, as the broker last said; negative while not known. Asks nobody."""
        try:
            known = self._consumer.get_watermark_offsets(TopicPartition(self._topic, PARTITION), cached=True)
        except KafkaException:  # nothing was fetched yet
            return -1
        return known[1] if known else -1

    def read_tail(
        self,
        on_wait: Callable[[], None] | None = None,
        *,
        depth_bytes: int = 0,
        back_to: int | None = None,
        end: int | None = None,
    ) -> LogTail | None:
        """The newest complete transaction, read backwards in growing steps. None when the log is empty.

        Looks at least at the last `depth_bytes` of values, and at everything from the offset `back_to` on: a leader
        that does not know yet that another one leads may have written so much after the other's `epoch` record, which
        makes it void. `end` is the offset before which the log is taken to end.
        `on_wait` is called after every piece read. Leaves the reader without an assignment: `seek` again
        before `consume`. Raises LogError when all
        records are gone, or none of them ends a transaction.
        """
        low, high = self.watermarks()
        if end is not None:
            high = min(high, end)
        if low >= high:
            if high == 0:
                return None
            raise LogError(
                f"the log is empty, {high} records were removed",
                f"its retention is too short for the time that nothing was published: {NEW_GROUP}",
                self._where,
            )
        window = _Window(low, high, time.monotonic() + _TAIL_SECONDS, on_wait or _nothing)
        try:
            scan = self._scan(window, 0, back_to)
            if window.size < depth_bytes and self._must_look_deep(window, scan, depth_bytes):
                scan = self._scan(window, depth_bytes, back_to)
        finally:
            self._consumer.unassign()
        tail = scan.tail()
        if tail is not None:
            return tail
        raise LogError(
            "no complete transaction is in the log",
            f"the records before were removed by retention, or are not ours: {NEW_GROUP}",
            self._where,
        )

    def _scan(self, window: _Window, depth_bytes: int, back_to: int | None) -> TailScan:
        """Of a window that is enlarged until it has a complete transaction and `depth_bytes` of values, or all."""
        scan, step, enough = TailScan(window.high), _TAIL_FIRST_STEP, False
        window.start = window.high
        while window.start > window.low and not enough:
            window.start = max(window.low, min(window.high - step, window.high if back_to is None else back_to))
            window.size = 0
            scan.begin(whole=window.start == window.low)
            for message in self._range(window.start, window.high, window.deadline, window.on_wait):
                value = message.value() or b""
                window.size += len(value)
                scan.add(int(message.offset() or 0), value)
            found = scan.tail() is not None and not scan.is_in_doubt()
            enough = found and window.size >= depth_bytes
            step = window.next_step(depth_bytes if found else 0)
        return scan

    def _must_look_deep(self, window: _Window, scan: TailScan, depth_bytes: int) -> bool:
        """Whether anything before the window, down to `depth_bytes`, may change what was found in it. Takes the place
        of each record from its bytes: to read all of them like those of the window takes seconds."""
        end, size = window.start, window.size
        while end > window.low and size < depth_bytes:
            step = max(_TAIL_FIRST_STEP, (depth_bytes - size) * (window.high - end) // max(size, 1))
            start = max(window.low, end - step)
            for message in self._range(start, end, window.deadline, window.on_wait):
                value = message.value() or b""
                size += len(value)
                if scan.may_yield_to(*place_of(value, int(message.offset() or 0))):
                    return True
            end = start
        return False

    def find_epoch(self, epoch: int, depth_bytes: int, not_before: int | None = None) -> EpochStart | None:
        """The record that begins `epoch`: of several that claim it the first. None when it is not in the log.

        Looks so far back that what an older leader wrote after it, up to `depth_bytes`, is not taken for what comes
        before it; or to the offset `not_before`, before which it cannot be.
        """
        low, high = self.watermarks()
        low = max(low, not_before or 0)
        deadline = time.monotonic() + _TAIL_SECONDS
        step, start = _TAIL_FIRST_STEP, high
        try:
            while start > low:
                start = max(low, high - step)
                older, size = start == low, depth_bytes if start == low else 0
                for message in self._range(start, high, deadline, _nothing):
                    offset, value = int(message.offset() or 0), message.value() or b""
                    kind, at, _ = place_of(value, offset)
                    if kind == "epoch" and at == epoch:
                        if older and size >= depth_bytes:
                            _, meta = parse(value, offset)
                            return EpochStart(offset, meta["leader"], meta.get("promotion"))
                        break
                    older |= at < epoch
                    size += len(value)
                step *= _TAIL_STEP_GROWTH
        finally:
            self._consumer.unassign()
        return None

    def close(self) -> None:
        """Does not wait for the brokers."""
        self._consumer.close()

    def _watch_silence(self) -> None:
        """The client waits for ever for an answer that is lost on the way, and says nothing."""
        if time.monotonic() - self._heard_at < _SILENT_SECONDS:
            return
        if self._due_offset is not None and self._offset <= self._due_offset:
            raise RetryableError("records are in the log and do not arrive", where=self._where)
        _, high = self.watermarks()
        self._due_offset = high - 1 if high > self._offset else None
        self._heard_at = time.monotonic()

    def _range(self, start: int, end: int, deadline: float, on_wait: Callable[[], None]) -> Iterator[Message]:
        self.seek(start)
        position = start
        while position < end:
            messages = self.consume(5000, 0.5)
            on_wait()
            for message in messages:
                position = int(message.offset() or 0) + 1
                if position > end:
                    return
                yield message
            if not messages and time.monotonic() > deadline:
                raise RetryableError(
                    f"the log could not be read to its end in {_TAIL_SECONDS:.0f} s", where=self._where
                )

    def _check_errors(self, messages: list[Message]) -> None:
        for message in messages:
            error = message.error()
            if error is None or error.code() in _PASSING:
                continue
            if error.code() in _OUT_OF_RANGE:
                raise self._out_of_range()
            if error.code() == KafkaError._BAD_MSG:
                raise self._damaged(message)
            raise translate(error, self._where)

    def _check_topic(self) -> None:
        """The client calls a partition unknown when it has lost its broker, too: that passes. Only a broker knows.

        Raises RetryableError unless a broker says that there is no such topic.
        """
        try:
            topic = self._consumer.list_topics(self._topic, timeout=self._answer_seconds).topics[self._topic]
        except KafkaException as error:
            raise self._explained(translate(error, self._where)) from error
        if topic.error is None or topic.error.code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
            raise RetryableError("the broker that leads the log is not known", "see that it runs", self._where)

    def _out_of_range(self) -> LogError:
        low, high = self.watermarks()
        if self._offset > high:
            return LogError(
                f"offset {self._offset} is past the end of the log ({high}): acknowledged records are gone",
                "the topic was replaced or cut: " + NO_SUCH_TOPIC_REMEDY,
                self._where,
            )
        if self._offset >= low:
            return LogError(
                f"the log was cut before offset {self._offset} and goes on with other records",
                "acknowledged records are gone: " + NO_SUCH_TOPIC_REMEDY,
                self._where,
            )
        return LogError(
            f"offsets {self._offset} to {low - 1} were removed from the log before they were read",
            "raise the topic's retention and bootstrap the follower again",
            self._where,
        )

    def _damaged(self, message: Message) -> LogError:
        return LogError(
            "records are damaged: their checksum is wrong",
            f"start again; if it stays so, let another replica of the topic lead, or {NEW_GROUP}",
            f"{self._where} from offset {message.offset()} on",
        )

    def _explained(self, error: CdcError) -> CdcError:
        # The client says why while it is asked for records only. One that comes now is the next that `consume` returns.
        self._early += self._consumer.consume(1, 0)
        return self._refusal.explain(error)

    def _on_error(self, error: KafkaError) -> None:
        if self._refusal.note(error):
            return
        if error.code() not in _PASSING or error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._client_error = error

    def _raise_client_error(self) -> None:
        error, self._client_error = self._client_error, None
        if error is not None and error.code() == KafkaError._ALL_BROKERS_DOWN:
            # One lost connection is enough for it, and the client connects anew by itself: `_watch_silence` decides,
            # unless it is known why.
            down = translate(error, self._where)
            explained = self._refusal.explain(down)
            if explained is not down:
                raise explained
            log.warning("no broker can be reached, trying again", topic=self._topic, error=error.str())
        elif error is not None:
            raise translate(error, self._where)


def _size(messages: Sequence[Message]) -> int:
    return sum(map(len, messages))


def _nothing() -> None:
    return
