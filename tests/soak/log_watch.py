"""Reads the log independently of the pipeline, and holds the slot and the followers against it.

Never may the slot be confirmed past what the log holds, nor a follower be past the log, nor the log past the leader.
What was confirmed or applied is asked first, then the log is read to its end of that later moment; the leader is asked
last. Where one of them does not answer, the question stays open until it does.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

import orjson
import psycopg
from confluent_kafka import Consumer, KafkaException, TopicPartition

from tests.soak.findings import Findings
from tests.soak.watch import FollowerWatch
from tests.support.plain_reader import Event, PlainReader

_EVERY_SECONDS = 0.3
_KAFKA_SECONDS = 2.0

_SLOT = (
    "SELECT max(confirmed_flush_lsn - '0/0'::pg_lsn), max(pg_current_wal_lsn() - restart_lsn) "
    "FROM pg_replication_slots WHERE slot_name = %s"
)
_WAL_END = "SELECT pg_current_wal_flush_lsn() - '0/0'::pg_lsn"


class ChainReader(PlainReader):
    """Follows the chain and keeps no rows. Raises AssertionError where it is broken."""

    def __init__(self) -> None:
        super().__init__()
        self.commit_lsn = self.end_lsn = 0
        """Of the newest complete transaction."""
        self.count = 0

    def _take(self, key: Any, event: Event) -> None:
        cdc = event["cdc"]
        if not cdc.get("last"):
            self._open = (cdc["commit_lsn"], cdc["seq"])
            return
        self._complete, self._open = cdc["commit_lsn"], (0, 0)
        self.commit_lsn, self.end_lsn = cdc["commit_lsn"], cdc["end_lsn"]
        self.count += 1


class LogWatch:
    """`leader` is a dsn."""

    def __init__(
        self,
        leader: str,
        slot: str,
        bootstrap_servers: str,
        topic: str,
        followers: Iterable[FollowerWatch],
        findings: Findings,
    ) -> None:
        self.reader = ChainReader()
        self.checks = 0
        self._leader = leader
        self._slot = slot
        self._topic = topic
        self._followers = list(followers)
        self._findings = findings
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log watch", daemon=True)
        self._consumer = Consumer(
            {"bootstrap.servers": bootstrap_servers, "group.id": "soak", "enable.auto.commit": False, "log_level": 0,
             "auto.offset.reset": "error", "queued.max.messages.kbytes": 16384, "reconnect.backoff.max.ms": 1000}
        )  # fmt: skip
        self._next = 0
        self._connection: psycopg.Connection[Any] | None = None

    def start(self) -> None:
        self._consumer.assign([TopicPartition(self._topic, 0, 0)])
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(60)
        self._consumer.close()
        self._disconnect()

    def _run(self) -> None:
        try:
            while not self._stop.wait(_EVERY_SECONDS):
                self._check()
        except AssertionError as error:
            self._findings.violation(f"the log breaks its rules near offset {self._next}: {error}")
        except Exception as error:
            self._findings.violation(
                f"the log cannot be read near offset {self._next}: {type(error).__name__}: {error}"
            )

    def _check(self) -> None:
        confirmed = self._ask_slot()
        applied = {watch.name: watch.position for watch in self._followers}
        if not self._read_to_end():
            return
        if confirmed > self.reader.end_lsn:
            self._findings.violation(
                f"the slot is confirmed up to {confirmed}, the log is complete up to {self.reader.end_lsn}"
            )
        for name, lsn in applied.items():
            if lsn > self.reader.commit_lsn:
                self._findings.violation(f"{name} is at {lsn}, the log at {self.reader.commit_lsn}")
        self._hold_against_leader()
        self.checks += 1

    def _ask_slot(self) -> int:
        """0 while the leader does not answer; what it confirmed before is asked for again when it does."""
        row = self._ask(_SLOT, self._slot)
        if row is None:
            return 0
        if row[0] is None:
            self._findings.violation(f"the slot {self._slot} is gone")
            return 0
        self._findings.most_retained_bytes = max(self._findings.most_retained_bytes, int(row[1]))
        return int(row[0])

    def _hold_against_leader(self) -> None:
        row = self._ask(_WAL_END)
        if row is not None and self.reader.end_lsn > row[0]:
            self._findings.violation(f"the log is at {self.reader.end_lsn}, the leader's WAL ends at {row[0]}")

    def _ask(self, query: str, *values: str) -> tuple[Any, ...] | None:
        """None while the leader does not answer."""
        try:
            if self._connection is None:
                self._connection = psycopg.connect(
                    self._leader, autocommit=True, connect_timeout=5, application_name="soak watch"
                )
            return self._connection.execute(query, values or None).fetchone()
        except psycopg.OperationalError:
            self._disconnect()
            return None

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _read_to_end(self) -> bool:
        """To the end that the log has now. False when Kafka does not answer; to be gone on with."""
        try:
            _, high = self._consumer.get_watermark_offsets(TopicPartition(self._topic, 0), _KAFKA_SECONDS)
        except KafkaException:
            return False
        while self._next < high:
            messages = self._consumer.consume(2000, _KAFKA_SECONDS)
            if not messages or self._stop.is_set():
                return False
            for message in messages:
                error = message.error()
                if error is not None:
                    if not error.retriable() and error.code() > 0:  # below zero: a lost connection, librdkafka's own
                        raise KafkaException(error)
                    continue
                offset = message.offset()
                assert offset is not None
                assert offset >= self._next, f"offset {offset} after {self._next}"
                key, value = message.key(), message.value()
                self.reader.feed(orjson.loads(key) if key else None, orjson.loads(value or b""))
                self._next = offset + 1
        return True
