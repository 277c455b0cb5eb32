"""A watch on the one rule of capture: the slot is never confirmed past what the log durably holds."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from types import TracebackType
from typing import Self

import orjson
import psycopg
from confluent_kafka import Consumer, KafkaException, TopicPartition

from cdc.local.processes import wait_for
from tests.support.pipeline import Pipeline

_KAFKA_SECONDS = 10


class SlotWatch:
    """Asks for the slot, then reads the log to its end, all the time: the slot must not have been further.

    A leader or a Kafka that goes away is waited for; what was asked meanwhile does not count.
    """

    def __init__(self, pipeline: Pipeline, bootstrap_servers: str) -> None:
        self.violations: list[str] = []
        self.samples = 0
        self._leader = pipeline.leader
        self._slot = pipeline.group.slot
        self._log = TopicPartition(pipeline.group.topic, 0, 0)
        self._log_end_lsn = 0
        self._high_watermark = 0
        self._interruption: Exception | None = None
        self._bootstrap_servers = bootstrap_servers
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="slot-watch", daemon=True)

    def check(self, at_least: int = 10) -> None:
        wait_for(lambda: self.samples >= at_least or bool(self.violations), seconds=60)
        assert not self.violations, self.violations[:5]
        assert self.samples >= at_least, (
            f"the slot was hardly looked at: {self.samples} times, with the log read up to offset {self._log.offset} "
            f"of {self._high_watermark}; last interrupted by: {self._interruption}"
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(30)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                try:
                    self._session()
                except (psycopg.OperationalError, KafkaException, TimeoutError) as error:
                    self._interruption = error
                    self._stop.wait(0.2)
        except Exception as error:
            self.violations.append(f"{type(error).__name__}: {error}")

    def _session(self) -> None:
        """With clients of its own: one of Kafka's whose answer is lost on the way waits for it for ever."""
        query = "SELECT (confirmed_flush_lsn - '0/0')::bigint FROM pg_replication_slots WHERE slot_name = %s"
        settings = {
            "bootstrap.servers": self._bootstrap_servers,
            "group.id": "slot-watch",
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "log_level": 0,
        }
        with (
            closing(Consumer(settings)) as consumer,
            psycopg.connect(self._leader, autocommit=True, connect_timeout=5) as connection,
        ):
            consumer.assign([self._log])
            while not self._stop.wait(0.02):
                row = connection.execute(query, (self._slot,)).fetchone()
                assert row is not None, "the slot is gone"
                if self._read_to_the_end(consumer):
                    self.samples += 1
                    if row[0] > self._log_end_lsn:
                        self.violations.append(
                            f"the slot is confirmed up to {row[0]}, the log ended at {self._log_end_lsn}"
                        )

    def _read_to_the_end(self, consumer: Consumer) -> bool:
        """What the log held when this began; False when that could not be read."""
        low_high = consumer.get_watermark_offsets(self._log, _KAFKA_SECONDS)
        if low_high is None:
            return False
        self._high_watermark = low_high[1]
        deadline = time.monotonic() + _KAFKA_SECONDS
        while self._log.offset < self._high_watermark and not self._stop.is_set():
            if time.monotonic() > deadline:
                raise TimeoutError("records are in the log and do not arrive")
            for message in consumer.consume(5000, 0.2):
                if message.error() is None:
                    self._log.offset = int(message.offset() or 0) + 1
                    meta = orjson.loads(message.value() or b"")["cdc"]
                    self._log_end_lsn = max(self._log_end_lsn, meta.get("end_lsn", 0))
                    deadline = time.monotonic() + _KAFKA_SECONDS
        return self._log.offset >= self._high_watermark
