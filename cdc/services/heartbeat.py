"""Heartbeats: small transactions on the leader that travel the whole way, so an idle group still moves.

They let the slot advance, and lag be measured through every hop. Now and then they carry the values of sequences that
moved, which a promoted follower goes on from. When they fail, nothing else does.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

import structlog

from cdc.capture_ports import LeaderDatabase
from cdc.errors import CdcError
from cdc.events.table import TableId
from cdc.log.sequences import SEQUENCES_PREFIX, sequences_message
from cdc.retry import Backoff
from cdc.services.meters import Freshness

log = structlog.get_logger(__name__)

HEARTBEAT_PREFIX = "cdc.heartbeat"
"""Logical messages with it come from capture and mean nothing but that time has passed."""

_SEQUENCES_SECONDS = 5.0
"""How often the values of sequences are asked for."""
_JOIN_SECONDS = 1.0
"""A daemon thread: one that still connects may be left behind."""


class Heartbeat:
    """A thread with a connection of its own that emits one message every `interval` seconds while entered."""

    def __init__(
        self,
        connect: Callable[[], LeaderDatabase],
        content: bytes,
        interval: float,
        freshness: Freshness | None = None,
    ) -> None:
        self._freshness = freshness or Freshness()
        self._connect = connect
        self._content = content
        self._interval = interval
        self._beat_at = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(_JOIN_SECONDS)

    @property
    def silence(self) -> float:
        """Seconds since the leader last took a heartbeat."""
        return time.monotonic() - self._beat_at

    def _run(self) -> None:
        backoff = Backoff(first=self._interval)
        while not self._stop.is_set():
            self._freshness.beat_begins()
            try:
                self._beat(backoff)
            except CdcError as error:
                wait = backoff.next_wait()
                log.warning("heartbeat interrupted", error=str(error), wait_seconds=round(wait, 2))
                self._stop.wait(wait)

    def _beat(self, backoff: Backoff) -> None:
        leader = self._connect()
        told: dict[TableId, int] = {}
        asked_at = -_SEQUENCES_SECONDS
        try:
            while True:
                self._freshness.beat_begins()
                lsn = leader.emit_message(HEARTBEAT_PREFIX, self._content)
                if self._stop.is_set():
                    return  # what is measured now may be another leader
                self._freshness.beat_is_at(lsn)
                self._beat_at = time.monotonic()
                backoff.reset()
                if time.monotonic() - asked_at >= _SEQUENCES_SECONDS:
                    asked_at = time.monotonic()
                    _tell_sequences(leader, told)
                if self._stop.wait(self._interval):
                    return
        finally:
            leader.close()


def _tell_sequences(leader: LeaderDatabase, told: dict[TableId, int]) -> None:
    """Those that are not where they were `told` to be."""
    moved = {name: value for name, value in leader.sequences().items() if told.get(name) != value}
    if moved:
        leader.emit_message(SEQUENCES_PREFIX, sequences_message(moved))
        told.update(moved)
