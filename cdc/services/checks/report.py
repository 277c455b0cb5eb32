"""All checks of a group: one line each, of every place that could be read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from cdc.errors import CdcError
from cdc.services.checks.between import Pair, between
from cdc.services.checks.check import Check, Checks, Facts, Group, Status, refused
from cdc.services.checks.follower import follower
from cdc.services.checks.kafka import kafka
from cdc.services.checks.leader import leader

PLACES: tuple[Checks[Any], ...] = (leader, follower, kafka, between)
REACHED_WHY = "nothing else of it could be looked at"


@dataclass(frozen=True, slots=True)
class Line:
    """One check of one place. `why` and `remedy` matter unless it is ok."""

    id: str
    place: str
    status: Status
    found: str
    why: str
    remedy: str


@dataclass(frozen=True, slots=True)
class CheckReport:
    group: str
    leader: str
    lines: tuple[Line, ...]

    def count(self, status: Status) -> int:
        return sum(line.status is status for line in self.lines)


def check_group(group: Group) -> CheckReport:
    """Judges what was read; asks nobody."""
    return CheckReport(group.wanted.group, group.leader_name, tuple(_lines(group)))


def _lines(group: Group) -> Iterator[Line]:
    name = group.leader_name
    yield from _of(leader, name, group.leader, group)
    for follower_name, node in group.followers.items():
        yield from _of(follower, follower_name, node, group)
    yield from _of(kafka, group.wanted.topic, group.kafka, group)
    if isinstance(group.leader, CdcError):
        return
    for follower_name, node in group.followers.items():
        if not isinstance(node, CdcError):
            yield from _judged(between, f"{name} -> {follower_name}", Pair(group.leader, node), group)


def _of(checks: Checks[Facts], place: str, facts: Facts | CdcError, group: Group) -> Iterator[Line]:
    if isinstance(facts, CdcError):
        verdict = refused(facts)
        yield Line(reached(checks), place, verdict.status, verdict.found, REACHED_WHY, verdict.remedy)
        return
    yield Line(reached(checks), place, Status.OK, "answers", REACHED_WHY, "")
    yield from _judged(checks, place, facts, group)


def reached(checks: Checks[Any]) -> str:
    return f"{checks.place}.reached"


def _judged(checks: Iterable[Check[Facts]], place: str, facts: Facts, group: Group) -> Iterator[Line]:
    for check in checks:
        verdict = check.judge(facts, group)
        if verdict is not None:
            yield Line(check.id, place, verdict.status, verdict.found, check.why, verdict.remedy)
