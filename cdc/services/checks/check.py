"""What a check is: a name, why it matters, and a function that judges what was read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from inspect import getdoc
from typing import Generic, TypeVar

from cdc.capture_ports import CandidateTable
from cdc.check_ports import FollowerNode, KafkaFacts, LaterLook, LeaderNode, NodeReading, NodeTable
from cdc.errors import CdcError
from cdc.events.table import TableId, matches
from cdc.services.resume import Place as Names

Facts = TypeVar("Facts")


class Status(StrEnum):
    OK = "ok"
    WARNING = "warning"
    """Works today; the line says what it costs, or what will not work."""
    FAILED = "failed"
    """Does not work, or loses something."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`remedy` is empty when all is well."""

    status: Status
    found: str
    remedy: str = ""


def ok(found: str) -> Verdict:
    return Verdict(Status.OK, found)


def warning(found: str, remedy: str) -> Verdict:
    return Verdict(Status.WARNING, found, remedy)


def failed(found: str, remedy: str) -> Verdict:
    return Verdict(Status.FAILED, found, remedy)


def refused(error: CdcError) -> Verdict:
    """What the command that needs it would say."""
    return failed(error.what, error.remedy or "see the line")


def judged(error: CdcError | None, otherwise: str) -> Verdict:
    """Failed with that error, if there is one."""
    return ok(otherwise) if error is None else refused(error)


def raised(look: Callable[[], object], otherwise: str) -> Verdict:
    """Failed with what `look` raises."""
    try:
        look()
    except CdcError as error:
        return refused(error)
    return ok(otherwise)


@dataclass(frozen=True)
class Wanted:
    """The configuration, as far as checks compare with it."""

    group: str
    topic: str
    slot: str
    tables: Sequence[str]
    max_record_bytes: int


@dataclass(frozen=True)
class Group:
    """All that was read. A part that could not be has an error instead, and no line but that."""

    wanted: Wanted
    leader_name: str
    kafka: KafkaFacts | CdcError
    leader: LeaderNode | CdcError
    followers: Mapping[str, FollowerNode | CdcError]
    misplaced: Mapping[str, Sequence[CdcError] | CdcError] = field(default_factory=dict)
    """Of followers that hold the leader's tables: what their appliers would say of its rows."""
    later: LaterLook | CdcError | None = None
    """None where there is no log yet, or leader or log cannot be reached."""
    programs: CdcError | None = None
    """Why a first copy would not find pg_dump and psql where the check runs."""

    @property
    def names(self) -> Names:
        return Names(self.leader_name, self.wanted.topic, self.wanted.slot)

    @cached_property
    def tables(self) -> dict[TableId, NodeTable]:
        """Those that are published; before `cdc init`, that would be."""
        if isinstance(self.leader, CdcError):
            return {}
        published = self.leader.look.published
        here = self.leader.node.tables
        if published is None:
            return {name: table for name, table in here.items() if not table.unlogged and self.is_wanted(name)}
        names = {table.table for table in published.tables.values()}
        return {name: table for name, table in here.items() if name in names}

    @property
    def candidates(self) -> list[CandidateTable]:
        return [CandidateTable(t.table, t.owned, t.publishable) for t in self.tables.values()]

    @property
    def copies_are_due(self) -> bool:
        """Whether a follower is still to be bootstrapped, as far as is known."""
        return any(isinstance(node, FollowerNode) and not node.copied for node in self.followers.values())

    @property
    def log_is_led(self) -> bool:
        """Whether there is a log that can be read, and a leader that has begun to feed one."""
        if isinstance(self.kafka, CdcError) or isinstance(self.leader, CdcError):
            return False
        readable = self.kafka.topic is not None and self.kafka.log_problem is None
        return readable and self.leader.identity is not None

    def is_wanted(self, table: TableId) -> bool:
        return matches(table, self.wanted.tables)


def group_of(
    wanted: Wanted, leader: str, kafka: KafkaFacts | CdcError, nodes: Mapping[str, NodeReading | CdcError]
) -> Group:
    """Of all nodes that were read one leads, and the others follow."""
    leading = nodes[leader]
    return Group(
        wanted,
        leader,
        kafka,
        leading if isinstance(leading, CdcError) else leading.as_leader,
        {
            name: node if isinstance(node, CdcError) else node.as_follower
            for name, node in nodes.items()
            if name != leader
        },
    )


def leader_by_own_account(nodes: Mapping[str, NodeReading | CdcError]) -> str | None:
    """While the log cannot say: who leads the newest epoch and was not closed. None when nobody does, as before
    `cdc init`."""
    epochs = {
        name: state.epoch
        for name, node in nodes.items()
        if isinstance(node, NodeReading)
        and not (state := node.as_leader.node.leadership).closed
        and state.epoch is not None
    }
    return max(epochs, key=epochs.__getitem__, default=None)


@dataclass(frozen=True)
class Check(Generic[Facts]):
    """`judge` gets what was read of the place, and all the rest; its docstring says what it looks at. None: there is
    nothing to look at yet."""

    id: str
    why: str
    judge: Callable[[Facts, Group], Verdict | None]

    @property
    def what(self) -> str:
        return " ".join((getdoc(self.judge) or "").split())


class Checks(Generic[Facts]):
    """The checks of one place, in the order in which they are shown."""

    def __init__(self, place: str) -> None:
        self.place = place
        self._checks: list[Check[Facts]] = []

    def __iter__(self) -> Iterator[Check[Facts]]:
        return iter(self._checks)

    def check(
        self, name: str, why: str
    ) -> Callable[[Callable[[Facts, Group], Verdict | None]], Callable[[Facts, Group], Verdict | None]]:
        """A function is the check `place.name`."""

        def register(
            judge: Callable[[Facts, Group], Verdict | None],
        ) -> Callable[[Facts, Group], Verdict | None]:
            self._checks.append(Check(f"{self.place}.{name}", why, judge))
            return judge

        return register
