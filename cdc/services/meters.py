"""What a daemon counts of its own work. Written by its loop, once a step and never once a row; read by whoever asks.

Every value is one assignment, so readers see it whole; they may see two values of different moments.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from cdc.capture_ports import SlotFacts, TopicFacts
from cdc.events.position import Position

_BEATS_KEPT = 1000


class Freshness:
    """How stale the log is: how long ago the oldest heartbeat was sent to the leader that is not in the log yet.

    One clock measures it, that of this process. Begun and noted by the heartbeat's thread, ended by capture's loop.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._beats: deque[tuple[int, float]] = deque()
        self._spacing = 0.0
        """Seconds between two of them at least: in a long outage not every one is kept."""
        self._begun_at: float | None = None
        self._stale_since: float | None = None

    def begin(self, age_seconds: float) -> None:
        """A session begins where the log's newest transaction is so old."""
        since = self._clock() - max(0.0, age_seconds)
        self._stale_since = since if self._stale_since is None else min(since, self._stale_since)

    def end(self) -> None:
        """The session is over: from here on the log ages, until a heartbeat of the next one is in it."""
        self._stale_since = self._clock() - self.lag_seconds()
        self._beats.clear()
        self._begun_at = None

    def rests(self) -> None:
        """Another capture feeds the log: how stale that is, is not known here."""
        self._beats.clear()
        self._stale_since = self._begun_at = None

    def beat_begins(self) -> None:
        if self._begun_at is None:
            self._begun_at = self._clock()

    def beat_is_at(self, lsn: int) -> None:
        """The leader has taken the heartbeat, in a transaction that ends after `lsn`."""
        begun_at, self._begun_at = self._begun_at, None
        at = begun_at if begun_at is not None else self._clock()
        newest = list(self._beats)[-2:]
        if len(newest) == 2 and newest[1][1] - newest[0][1] < self._spacing:
            with suppress(IndexError):  # delivered this moment
                self._beats.pop()
        self._beats.append((lsn, at))
        if len(self._beats) > _BEATS_KEPT:
            self._beats = deque(list(self._beats)[::2])
            self._spacing = 2 * (at - self._beats[0][1]) / _BEATS_KEPT

    def delivered(self, lsn: int) -> None:
        """The log holds durably what the leader committed before `lsn`."""
        beats = self._beats
        while beats and beats[0][0] < lsn:
            beats.popleft()
            self._stale_since = None
        if not beats:
            self._spacing = 0.0

    def lag_seconds(self) -> float:
        """Zero when nothing is under way."""
        oldest = [at for at in (self._stale_since, self._begun_at) if at is not None]
        oldest += [at for _, at in list(self._beats)[:1]]
        return max(0.0, self._clock() - min(oldest)) if oldest else 0.0


@dataclass
class CaptureMeter:
    """LSNs are of the leader whose `epoch` it is; totals are since the process began."""

    epoch: int = 0
    records: int = 0
    record_bytes: int = 0
    transactions: int = 0
    in_flight_bytes: int = 0
    received_lsn: int = 0
    durable_lsn: int = 0
    slot: SlotFacts | None = None
    topic: TopicFacts | None = None
    """Both as the guardian saw them last."""
    freshness: Freshness = field(default_factory=Freshness)

    def rests(self) -> None:
        """It stands by: what it knew is of a leader that is none any more, and of a slot that may be gone. Said again
        and again, because threads of the session before may end late."""
        self.epoch = self.received_lsn = self.durable_lsn = self.in_flight_bytes = 0
        self.slot = self.topic = None
        self.freshness.rests()


class ApplyMeter:
    """Of one follower; totals are since the process began."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, now_us: Callable[[], int] = lambda: 0) -> None:
        """`now_us` is this machine's clock, which the leader's times of commits are compared with."""
        self._clock = clock
        self._now_us = now_us
        self._fresh_at = clock()
        self._goal: tuple[int, float] | None = None
        """Where the log ended when, for whom to reach it is to have been fresh then."""
        self._is_fresh = False
        self.records = 0
        self.record_bytes = 0
        self.changes = 0
        self.commits = 0
        self.busy_seconds = 0.0
        self.lag_records = 0
        self.position: Position | None = None

    def begin(self, position: Position) -> None:
        """A session begins there. Nothing is known yet of where the log ends."""
        if self.position is None:
            self._fresh_at = self._clock() - self._age_of(position)
        self.position, self._goal = position, None

    def committed(self, position: Position, changes: int, size: int) -> None:
        """`size` is that of the records, without what an unfinished transaction had before."""
        self.position = position
        self.changes += changes
        self.record_bytes += size
        self.commits += 1

    def follows(self, done: int, end: int) -> None:
        """All before the offset `done` is applied, and the log ends at `end`, as was last heard.

        The follower was fresh when the log ended where it has come to by now. Under load there is always more."""
        now = self._clock()
        if self._goal is not None and done >= self._goal[0]:
            self._fresh_at, self._goal = self._goal[1], None
        if self._goal is None:
            self._goal = (end, now)
        self.lag_records = max(0, end - done)
        self._is_fresh = self.lag_records == 0
        if self._is_fresh:
            self._fresh_at = now

    def ended(self) -> None:
        """A session is over: from here on what the follower shows ages."""
        self._is_fresh = False

    def rests(self) -> None:
        """Its node leads: it shows what the log does not hold yet, and is behind nothing."""
        self.position = self._goal = None
        self.lag_records, self._is_fresh = 0, False

    def lag_seconds(self) -> float:
        """How old what the follower shows is, when that is not all that the log holds; else zero.

        Since it was last known to show all, by one clock; or since the leader committed it, by two, if that is less."""
        if self._is_fresh or self.position is None:
            return 0.0
        return min(self._clock() - self._fresh_at, self._age_of(self.position))

    def _age_of(self, position: Position) -> float:
        return max(0.0, (self._now_us() - position.committed_at_us) / 1e6)
