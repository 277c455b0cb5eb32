"""Lag, hop by hop: leader WAL -> capture -> log -> each follower, in bytes of WAL, records of the log and seconds.

Everybody is asked at once (a `GroupLook`); what that comes to is worked out here. Bytes are differences of LSNs,
records differences of offsets. Seconds are the age, on the leader's clock, of the newest transaction that has made
the hop, and zero when it is the newest there is: an upper bound of how stale a reader may be. All are zero when
nothing is pending and rise while anything is stuck. Rates, and what is estimated from them, need an earlier look.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from cdc.errors import CheckError
from cdc.events.position import Position
from cdc.log.tail import LogTail
from cdc.ports import LeaderProgress, NodeProgress
from cdc.protocol.lsn import Lsn
from cdc.services.guardian import slot_warning
from cdc.services.status import node_status

RETENTION_ALARM = 0.7
"""Of the topic's retention.ms."""

REMOVAL_ALARM = 0.9
"""Of the log's records: so many lie after a reader that is about to lose some."""


LATE_SECONDS = 5.0
"""From so much lag on, a person is told that it is late, and whether it shrinks."""

VERY_LATE_SECONDS = 60.0
"""From so much on, it is shown as bad, and how long the log keeps what is not applied is said."""


@dataclass(frozen=True, slots=True)
class LogLook:
    """The log at one moment. `retention_ms` -1: nothing is removed for its age."""

    tail: LogTail
    retention_ms: int
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GroupLook:
    """What everybody said when asked `at` a time of this process's monotonic clock; a text says why one did not."""

    at: float
    now_us: int
    """This machine's clock, for when the leader's cannot be had."""
    log: LogLook | str
    nodes: Mapping[str, NodeProgress | str]


@dataclass(frozen=True, slots=True)
class Hop:
    """One arrow of the picture, and all of the way from the leader to its end. None: not known."""

    name: str
    lag_bytes: int | None
    lag_seconds: float | None
    position: str
    problem: str | None = None
    records: int | None = None
    """Of the log, that the follower has not applied."""
    total_bytes: int | None = None
    total_seconds: float | None = None
    """From the leader's commit until it can be seen here."""
    catch_up_seconds: float | None = None
    """At the present rates; None when they are not known or it never would."""
    state: str = ""
    retention_left_seconds: float | None = None
    """How much longer this follower may stand still before the log removes for its age what it needs next."""

    @property
    def works(self) -> bool:
        """Whether somebody is there who moves things on."""
        return self.problem is None and self.state in ("", "streaming", "applying")

    @property
    def shown_state(self) -> str:
        return "unreachable" if self.problem else self.state

    @property
    def is_late(self) -> bool:
        return (self.lag_seconds or 0.0) > LATE_SECONDS

    @property
    def is_very_late(self) -> bool:
        return (self.lag_seconds or 0.0) > VERY_LATE_SECONDS


@dataclass(frozen=True, slots=True)
class LagReport:
    """What `cdc lag` shows; a part that cannot be reached says why and leaves the rest in place."""

    group: str
    epoch: int | None
    leader_name: str
    leader: LeaderProgress | None
    leader_problem: str | None
    log_problem: str | None
    capture: Hop
    log: Hop
    followers: list[Hop]
    measured_seconds: float
    """Between the two looks that the rates are from; 0 when there was one."""
    wal_bytes_per_second: float | None
    slot_lost_seconds: float | None
    """How long the leader can go on at this rate before it may give up a slot that stands still."""
    warnings: list[str]
    """What will stop the group if nobody acts."""

    @property
    def problems(self) -> list[str]:
        hops = (self.capture, self.log, *self.followers)
        told = [self.leader_problem, self.log_problem, *(hop.problem for hop in hops)]
        return list(dict.fromkeys(text for text in told if text))

    def worth_a_second_look(self) -> bool:
        """Whether a rate would tell anything."""
        limited = self.leader is not None and self.leader.safe_wal_bytes is not None
        return limited or any(hop.total_bytes or hop.records for hop in (self.log, *self.followers))


@dataclass(frozen=True, slots=True)
class _Rates:
    """Bytes of WAL a second that each place went on between two looks. None: not known."""

    seconds: float
    wal: float | None
    log: float | None
    nodes: Mapping[str, float | None]


def lag_report(
    group: str, first_leader: str, names: Sequence[str], look: GroupLook, before: GroupLook | None = None
) -> LagReport:
    """`first_leader` leads when neither the log nor a node says who does; `before` is an earlier look."""
    log = None if isinstance(look.log, str) else look.log
    tail = log.tail if log else None
    leader_name = leader_in(first_leader, look)
    answer = look.nodes.get(leader_name, f"no node {leader_name} in the configuration")
    leader = None if isinstance(answer, str) else answer.leader
    leader_problem = answer if isinstance(answer, str) else None
    if leader is None and leader_problem is None:
        leader_problem = str(CheckError("the replication slot does not exist", "run: cdc init", leader_name))
    rates = _rates(look, before, leader_name)
    now_us = leader.now_us if leader else max(look.now_us, tail.committed_at_us if tail else 0)
    followers = [_follower(name, look.nodes[name], leader, log, now_us, rates) for name in names if name != leader_name]
    lost = None
    if leader and leader.safe_wal_bytes is not None and rates.wal:
        lost = max(0, leader.safe_wal_bytes) / rates.wal
    return LagReport(
        group=group,
        epoch=tail.epoch if tail else leader.epoch if leader else None,
        leader_name=leader_name,
        leader=leader,
        leader_problem=leader_problem,
        log_problem=look.log if isinstance(look.log, str) else None,
        capture=_capture_hop(leader, tail, rates),
        log=_log_hop(leader, tail, rates),
        followers=followers,
        measured_seconds=rates.seconds,
        wal_bytes_per_second=rates.wal,
        slot_lost_seconds=lost,
        warnings=[*_leader_warnings(leader), *(log.warnings if log else ()), *_follower_warnings(look, followers, log)],
    )


def leader_in(first_leader: str, look: GroupLook) -> str:
    """Who leads: as the log says; without it, the node that leads the newest epoch."""
    if not isinstance(look.log, str):
        return look.log.tail.leader or first_leader
    epochs = {
        name: answer.leader.epoch
        for name, answer in look.nodes.items()
        if not isinstance(answer, str) and answer.leader
    }
    return max(epochs, key=lambda name: epochs[name], default=first_leader)


def _capture_hop(leader: LeaderProgress | None, tail: LogTail | None, rates: _Rates) -> Hop:
    """Leader WAL to capture. Where the log ends, capture has been; since then only the server knows."""
    if leader is None:
        return Hop("capture", None, None, "?")
    state = "streaming" if leader.slot_active else "NOT RUNNING"
    if leader.received_lsn is None:
        return Hop("capture", None, None, "?", state=state)
    reached = max(leader.received_lsn, tail.end_lsn if tail and tail.epoch == leader.epoch else 0)
    pending = max(0, leader.insert_lsn - reached)
    seconds = _age(leader.now_us, tail.committed_at_us) if tail and pending else None if pending else 0.0
    return Hop("capture", pending, seconds, str(Lsn(reached)), None, None, pending, seconds,
               _catch_up(pending, rates.log, rates.wal), state)  # fmt: skip


def _log_hop(leader: LeaderProgress | None, tail: LogTail | None, rates: _Rates) -> Hop:
    """Capture to log; from the leader where it is not known how far capture is."""
    if tail is None:
        return Hop("log", None, None, "?")
    if leader is None or leader.epoch != tail.epoch:
        return Hop("log", None, None, str(tail.end_lsn))
    total = max(0, leader.insert_lsn - tail.end_lsn)
    received = leader.insert_lsn if leader.received_lsn is None else leader.received_lsn
    pending = min(total, max(0, received - tail.end_lsn))
    age = _age(leader.now_us, tail.committed_at_us)
    return Hop("log", pending, age if pending else 0.0, str(tail.end_lsn), None, None, total, age if total else 0.0,
               _catch_up(total, rates.log, rates.wal))  # fmt: skip


def _follower(
    name: str,
    answer: NodeProgress | str,
    leader: LeaderProgress | None,
    log: LogLook | None,
    now_us: int,
    rates: _Rates,
) -> Hop:
    """Log to follower."""
    if isinstance(answer, str):
        return Hop(name, None, None, "?", answer)
    status = node_status(name, answer.facts, leads=False)
    position = answer.position
    if position is None:
        return Hop(name, None, None, "?", f"{name}: {status.state}")
    age = _age(now_us, position.committed_at_us)
    pending, records, behind = _behind(position, log.tail if log else None)
    total, stale = _behind_leader(position, leader, behind)
    kept = log.retention_ms / 1000 if log and log.retention_ms >= 0 else None
    return Hop(
        name=name,
        lag_bytes=pending,
        lag_seconds=None if behind is None else age if behind else 0.0,
        position=str(position.end_lsn),
        records=records,
        total_bytes=total,
        total_seconds=None if stale is None else age if stale else 0.0,
        catch_up_seconds=_catch_up(pending, rates.nodes.get(name), rates.log),
        state=status.state,
        retention_left_seconds=None if kept is None else max(0.0, kept - age) if behind else kept,
    )


def _behind(position: Position, tail: LogTail | None) -> tuple[int | None, int | None, bool | None]:
    """Bytes and records of the log that are not applied, and whether there are any."""
    if tail is None:
        return None, None, None
    if (position.epoch, position.commit_lsn) >= (tail.epoch, tail.commit_lsn):
        return 0, 0, False
    # LSNs of two epochs are of two servers.
    pending = max(0, tail.end_lsn - position.end_lsn) if position.epoch == tail.epoch else None
    return pending, max(0, tail.next_offset - position.next_offset), True


def _behind_leader(
    position: Position, leader: LeaderProgress | None, behind: bool | None
) -> tuple[int | None, bool | None]:
    """Bytes of the leader's WAL that cannot be seen here yet, and whether there are any."""
    if leader is None:
        return None, behind
    if position.epoch != leader.epoch:
        return None, True
    total = max(0, leader.insert_lsn - position.end_lsn)
    return total, total > 0


def _rates(look: GroupLook, before: GroupLook | None, leader_name: str) -> _Rates:
    if before is None or look.at <= before.at:
        return _Rates(0.0, None, None, {})
    seconds = look.at - before.at
    leaders = [_leader_of(one, leader_name) for one in (look, before)]
    places = [(leader.epoch, leader.insert_lsn) if leader else None for leader in leaders]
    tails = [None if isinstance(one.log, str) else one.log.tail for one in (look, before)]
    ends = [(tail.epoch, tail.end_lsn) if tail else None for tail in tails]
    nodes: dict[str, float | None] = {}
    for name in look.nodes:
        positions = [_position_of(one, name) for one in (look, before)]
        nodes[name] = _rate([(at.epoch, at.end_lsn) if at else None for at in positions], seconds)
    return _Rates(seconds, _rate(places, seconds), _rate(ends, seconds), nodes)


def _rate(places: Sequence[tuple[int, int] | None], seconds: float) -> float | None:
    """Bytes a second from the second place to the first; each is an epoch and an LSN of it."""
    now, then = places
    if now is None or then is None or now[0] != then[0]:
        return None
    return max(0, now[1] - then[1]) / seconds


def _leader_of(look: GroupLook, name: str) -> LeaderProgress | None:
    answer = look.nodes.get(name)
    return answer.leader if isinstance(answer, NodeProgress) else None


def _position_of(look: GroupLook, name: str) -> Position | None:
    answer = look.nodes.get(name)
    return answer.position if isinstance(answer, NodeProgress) else None


def _catch_up(pending: int | None, rate: float | None, source_rate: float | None) -> float | None:
    """Seconds until nothing is pending, when both go on as they do."""
    if pending == 0:
        return 0.0
    if pending is None or rate is None or source_rate is None or rate <= source_rate:
        return None
    return pending / (rate - source_rate)


def _leader_warnings(leader: LeaderProgress | None) -> Iterator[str]:
    if leader:
        warning = slot_warning(leader.wal_status, leader.safe_wal_bytes, leader.wal_keep_bytes)
        if warning:
            yield warning


def _follower_warnings(look: GroupLook, followers: Sequence[Hop], log: LogLook | None) -> Iterator[str]:
    for hop in followers:
        warning = retention_warning(hop.name, hop, log.retention_ms) if log else None
        if warning:
            yield warning
    for name, answer in look.nodes.items():
        if not isinstance(answer, str) and answer.facts.diverged_since:
            since = answer.facts.diverged_since
            yield f"{name} has diverged since {since}: a transaction was left out; bootstrap it anew"
        if not isinstance(answer, str) and answer.facts.blocked_since:
            yield f"{name} is blocked since {answer.facts.blocked_since}: {answer.facts.blocked}"


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
