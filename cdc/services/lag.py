"""Lag, hop by hop: leader WAL -> log -> each follower, in bytes of WAL and in seconds.

Bytes are differences of LSNs. Seconds are the age, on the leader's clock, of the newest transaction that has made the
hop, and zero when it is the newest there is: an upper bound of how stale a reader may be. Both are zero when nothing is
pending and rise while anything is stuck.
"""

from __future__ import annotations

from dataclasses import dataclass

from cdc.events.position import Position
from cdc.log.tail import LogTail
from cdc.ports import LeaderProgress

RETENTION_ALARM = 0.7
"""Of the topic's retention.ms."""

REMOVAL_ALARM = 0.9
"""Of the log's records: so many lie after a reader that is about to lose some."""


@dataclass(frozen=True, slots=True)
class Hop:
    """One arrow of the picture. None: an end of it could not be reached."""

    name: str
    lag_bytes: int | None
    lag_seconds: float | None
    position: str
    problem: str | None = None


def log_hop(leader: LeaderProgress | None, tail: LogTail) -> Hop:
    """Leader WAL to log."""
    if leader is None:
        return Hop("log", None, None, str(tail.end_lsn))
    pending = max(0, leader.insert_lsn - tail.end_lsn)
    return Hop("log", pending, _age(leader.now_us, tail.committed_at_us) if pending else 0.0, str(tail.end_lsn))


def follower_hop(name: str, position: Position, tail: LogTail, now_us: int) -> Hop:
    """Log to follower."""
    behind = (position.epoch, position.commit_lsn) < (tail.epoch, tail.commit_lsn)
    pending = max(0, tail.end_lsn - position.end_lsn) if behind else 0
    seconds = _age(now_us, position.committed_at_us) if behind else 0.0
    return Hop(name, pending, seconds, str(position.end_lsn))


def retention_warning(name: str, hop: Hop, retention_ms: int) -> str | None:
    """Of a follower that is so far behind that the log may lose what it needs next."""
    if hop.lag_seconds is None or retention_ms < 0:
        return None
    kept = retention_ms / 1000
    if hop.lag_seconds < kept * RETENTION_ALARM:
        return None
    return (
        f"{name} is {_hours(hop.lag_seconds)} behind and the log keeps {_hours(kept)}: start its applier, or raise "
        "retention.ms of the topic; what is removed before it is read means bootstrap"
    )


def removal_is_near(next_offset: int, first: int, end: int, fetch: int) -> bool:
    """Whether retention, which has removed the records before `first`, is about to reach a reader that is behind."""
    behind = end - next_offset > fetch
    return behind and first > 0 and next_offset - first < (end - first) * (1 - REMOVAL_ALARM)


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h"


def _age(now_us: int, then_us: int) -> float:
    """Clocks step back; lag is never negative."""
    return max(0.0, (now_us - then_us) / 1e6)
