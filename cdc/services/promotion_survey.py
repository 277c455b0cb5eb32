"""What `cdc promote` finds before it does anything: who leads, how far all are, what speaks against it, the plan."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from cdc.capture_ports import LogTopic, LogWriter, SystemFacts
from cdc.errors import CdcError, CheckError, LogError, RetryableError
from cdc.log.tail import LogTail
from cdc.promotion_ports import EpochStart, NodeState, PromotionLog, PromotionNode, PromotionRecord
from cdc.services.ask import ask_all
from cdc.services.initialize import check_leader, check_tables
from cdc.services.log_end import LogEnd
from cdc.services.promotion_report import loss

PLANNED, EMERGENCY = "planned", "emergency"

_CONNECT_SECONDS = 20.0
"""All are asked at once, and each gives up by itself before."""
_PASSING_SECONDS = 10.0
_POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class PromoteSettings:
    """`slot` is also the name of the publication; `tables` are patterns; `depth_bytes` is how much a leader that is
    none any more may have written to the log after the record that says so."""

    group: str
    topic: str
    slot: str
    tables: Sequence[str]
    nodes: Sequence[str]
    depth_bytes: int
    timeout_seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class PromoteOptions:
    """What the operator says. `leader_is_dead` is the written word that nothing writes there, for a leader that cannot
    be closed."""

    who: str
    leader_is_dead: str | None = None
    force: bool = False
    grace_seconds: float = 5.0


@dataclass(frozen=True, slots=True)
class World:
    """Where the group is reached; the callables connect."""

    node: Callable[[str], PromotionNode]
    system: Callable[[str], SystemFacts]
    log: PromotionLog
    topic: LogTopic
    writer: Callable[[int], LogWriter]


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """One line of the plan: what will be done where."""

    name: str
    where: str
    what: str


@dataclass(frozen=True, slots=True)
class Problem:
    """What keeps a promotion from starting, with its remedy. Some pass: of daemons that were just started, or nodes
    that are a moment behind."""

    text: str
    may_pass: bool = False


@dataclass
class Situation:
    """What there is before anything is done. `problems` keep the promotion from starting."""

    tail: LogTail
    follower: str
    states: dict[str, NodeState]
    unreachable: dict[str, str]
    mode: str
    problems: list[Problem] = field(default_factory=list)
    record: PromotionRecord | None = None
    """The promotion to go on with."""

    @property
    def old_leader(self) -> str:
        return self.record.old_leader if self.record else self.tail.leader

    @property
    def epoch(self) -> int:
        return self.record.epoch if self.record else self.tail.epoch + 1


class Survey:
    """The group as a promotion sees it. `close` it: it holds a lock on every node that it reaches, when asked to."""

    def __init__(self, settings: PromoteSettings, options: PromoteOptions, world: World) -> None:
        self.settings = settings
        self.options = options
        self.world = world
        self.nodes: dict[str, PromotionNode] = {}
        self.unreachable: dict[str, str] = {}
        self._cleanup = ExitStack()
        self._log_end = LogEnd(settings.depth_bytes)
        self._writer: LogWriter | None = None

    def close(self) -> None:
        self._cleanup.close()

    def look(self, follower: str | None, *, lock: bool) -> Situation:
        """Who leads, how far everybody is, and what speaks against it. Raises FencedError when `lock` is wanted and
        another promotion holds one."""
        self.connect(lock)
        tail = self.tail()  # after the locks: whoever held one may have begun an epoch
        states = {name: node.state() for name, node in self.nodes.items()}
        chosen = follower or self._newest(tail, states)
        record = self._under_way(tail, states[chosen].promotion if chosen in states else None)
        mode = record.mode if record else PLANNED if tail.leader in states else EMERGENCY
        situation = Situation(tail, chosen, states, dict(self.unreachable), mode, record=record)
        if not self.leads_already(situation):
            if lock:
                self.writer()
            situation.problems = self._problems(situation)
        return situation

    def let_pass(self, situation: Situation, tell: Callable[[str], None], *, lock: bool) -> Situation:
        """Look again until the problems are gone that pass by themselves, for some seconds, as long as there are no
        others."""
        deadline, told = time.monotonic() + _PASSING_SECONDS, False
        while situation.problems and all(p.may_pass for p in situation.problems) and time.monotonic() < deadline:
            if not told:
                tell(f"waiting for up to {_PASSING_SECONDS:g} s: {situation.problems[0].text}")
                told = True
            time.sleep(_POLL_SECONDS)
            situation = self.look(situation.follower, lock=lock)
        return situation

    def _under_way(self, tail: LogTail, record: PromotionRecord | None) -> PromotionRecord | None:
        """The promotion to go on with. A planned one goes on without its leader when that is said to be dead."""
        if record is None or record.outcome is not None or record.epoch < tail.epoch:
            return None
        reason = self.options.leader_is_dead
        if record.mode == PLANNED and reason and record.old_leader in self.unreachable and tail.epoch < record.epoch:
            return replace(record, mode=EMERGENCY, report={**record.report, "reason": reason})
        return record

    def tail(self) -> LogTail:
        """Where the log ends now. Raises LogError when it does not say who leads."""
        tail = self._log_end.read(self.world.log)
        if tail is None or not tail.leader:
            raise LogError("the log does not say who leads", "run: cdc init", f"topic {self.settings.topic}")
        return tail

    def writer(self) -> LogWriter:
        """One for all that is written. Begins at once to get itself admitted, which takes half a second."""
        if self._writer is None:
            opened = self.world.writer(self.world.topic.describe().max_message_bytes)
            self._writer = self._cleanup.enter_context(closing(opened))
        return self._writer

    def find_epoch(self, epoch: int) -> EpochStart | None:
        return self._log_end.find_epoch(self.world.log, epoch)

    def end(self) -> LogTail:
        """Like `tail`, for waiting: cheap, and right as long as a single node writes."""
        tail = self.world.log.read_tail()
        assert tail is not None
        return tail

    def connect(self, lock: bool) -> None:
        """To every node that can be reached and is not connected yet. Raises FencedError as `look` does."""
        missing = {
            name: partial(self.world.node, name) for name in sorted(self.settings.nodes) if name not in self.nodes
        }
        found: dict[str, PromotionNode] = {}
        for name, told in ask_all(missing, _CONNECT_SECONDS).items():
            if isinstance(told, RetryableError | CheckError):
                self.unreachable[name] = str(told)
            elif isinstance(told, CdcError):
                raise told
            else:
                found[name] = self._cleanup.enter_context(closing(told))
        for name, node in found.items():
            if lock:
                node.take_lock(self.options.who)
            self.nodes[name] = node
            self.unreachable.pop(name, None)

    def _newest(self, tail: LogTail, states: dict[str, NodeState]) -> str:
        """The follower to propose: the one that is furthest, by name among equals."""
        found = [
            (state.position.epoch, state.position.commit_lsn, name)
            for name, state in sorted(states.items(), reverse=True)
            if name != tail.leader and state.position is not None
        ]
        if not found:
            raise CheckError("no follower can be reached", "start one, or bootstrap one", self.settings.group)
        return max(found)[2]

    def leads_already(self, situation: Situation) -> bool:
        """Whether there is nothing to do."""
        follower = situation.follower
        return situation.tail.leader == follower and situation.record is None and follower in situation.states

    def _problems(self, situation: Situation) -> list[Problem]:
        """What must be different before anything is done, each with its remedy."""
        follower, tail = situation.follower, situation.tail
        if follower in situation.unreachable:
            return [Problem(f"{follower} cannot be reached: {situation.unreachable[follower]}")]
        problems: list[Problem] = []
        state = situation.states[follower]
        if state.position is None:
            return [Problem(f"{follower} is no follower of this group: cdc bootstrap --follower {follower}")]
        end = self.end()  # asked after the follower: both move
        if state.position.epoch == end.epoch and state.position.commit_lsn > end.commit_lsn:
            problems.append(
                Problem(
                    f"{follower} is at {state.position.commit_lsn}, past the end of the log ({end.commit_lsn}): if "
                    "capture runs and it stays so, it holds what no other node has; bootstrap it anew",
                    may_pass=True,
                )
            )
        try:
            check_leader(self.nodes[follower].leader_facts(), None, follower)
            self.world.system(follower)  # over a connection as capture's will be
            check_tables(self.nodes[follower].candidates(self.settings.tables), self.settings.tables, follower)
        except CheckError as error:
            problems.append(Problem(str(error)))
        database = self.nodes[follower].foreign_slot(self.settings.slot)
        if database is not None:
            problems.append(
                Problem(
                    f"the server of {follower} has a slot {self.settings.slot} of the database {database}: nodes of a "
                    "group need servers of their own"
                )
            )
        if tail.leader != follower and (state.identity is not None or state.position.leader == follower):
            problems.append(
                Problem(f"{follower} led, or was to lead, an epoch that is over: cdc rejoin --node {follower}")
            )
        elif not state.applier_runs and not (situation.record and tail.epoch == situation.record.epoch):
            problems.append(Problem(f"no applier runs for {follower}: cdc apply --follower {follower}", may_pass=True))
        if state.diverged_since and not self.options.force:
            problems.append(
                Problem(
                    f"{follower} is diverged since {state.diverged_since}: a transaction was left out of it; promote "
                    "another one, or say --force"
                )
            )
        problems += self._problems_of_the_leader(situation)
        if tail.epoch < situation.epoch:  # afterwards the others apply what the new leader writes
            problems += self._others_ahead(situation)
        return problems

    def _problems_of_the_leader(self, situation: Situation) -> list[Problem]:
        old, tail = situation.old_leader, situation.tail
        if situation.mode == PLANNED and old in situation.states:
            identity = situation.states[old].identity
            if situation.record is None and (identity is None or identity.epoch < tail.epoch):
                return [
                    Problem(f"{old} is to lead epoch {tail.epoch} and is not open yet: cdc promote --follower {old}")
                ]
            if tail.epoch < situation.epoch and not situation.states[old].slot_active:
                return [
                    Problem(
                        f"no capture streams from {old}: start cdc capture, or nothing of it gets into the log",
                        may_pass=True,
                    )
                ]
            return []
        if tail.epoch >= situation.epoch or self.options.leader_is_dead:
            return []
        why = situation.unreachable.get(old, "it is not in the configuration")
        return [
            Problem(
                f"{old} leads and cannot be closed for writes ({why}): see that it is dead, or that nobody can reach "
                'it, and say so: --leader-is-dead "REASON"'
            )
        ]

    def _others_ahead(self, situation: Situation) -> list[Problem]:
        own = self.nodes[situation.follower].position()  # asked after the others: they all move
        return [
            Problem(
                f"{name} is ahead of {situation.follower} ({state.position.commit_lsn}, {own.commit_lsn}): let it "
                f"catch up, promote {name}, or say --force",
                may_pass=True,
            )
            for name, state in situation.states.items()
            if name not in (situation.follower, situation.old_leader)
            and state.position is not None
            and (state.position.epoch, state.position.commit_lsn) > (own.epoch, own.commit_lsn)
            and not self.options.force
        ]

    def at_risk(self, situation: Situation) -> str:
        """In words: what would be lost if it began now."""
        return loss(situation.mode, situation.old_leader, facts_of(situation.tail), time.time())

    def plan(self, situation: Situation) -> list[PlannedStep]:
        """What `run` would do, in its order."""
        follower, old, topic = situation.follower, situation.old_leader, self.settings.topic
        steps = [PlannedStep("begin", follower, "INSERT INTO cdc.promotion; a runbook record into the log")]
        if situation.mode == PLANNED:
            steps += [
                PlannedStep("fence", old, "ALTER DATABASE ... SET default_transaction_read_only = on; on each "
                            "published table CREATE OR REPLACE TRIGGER cdc_read_only, which waits for open writers for "
                            f"{self.options.grace_seconds:g} s and then ends them"),
                PlannedStep("publish", topic, f"wait until everything that {old} committed is in the log"),
            ]  # fmt: skip
        steps += [
            PlannedStep("epoch", topic, f"write the record that begins epoch {situation.epoch}, led by {follower}"),
            PlannedStep("drain", follower, "wait until it has applied everything before that record"),
            PlannedStep("sequences", follower, "setval(...) for every sequence"),
            PlannedStep("slot", follower, f"CREATE PUBLICATION {self.settings.slot}; "
                        f"pg_create_logical_replication_slot('{self.settings.slot}', 'pgoutput')"),
            PlannedStep("open", follower, "in one transaction: INSERT INTO cdc.identity; ALTER TABLE ... DISABLE "
                        "TRIGGER cdc_read_only; ALTER DATABASE ... RESET default_transaction_read_only"),
        ]  # fmt: skip
        if situation.mode == PLANNED:
            steps.append(PlannedStep("demote", old, "make it a follower from the fence on: INSERT INTO cdc.position; "
                                     "drop its slot, publication and identity"))  # fmt: skip
        steps.append(PlannedStep("capture", follower, "see that capture streams from it"))
        return steps

    def overtaken(self, tail: LogTail, record: PromotionRecord) -> bool:
        if record.epoch != tail.epoch:
            return record.epoch < tail.epoch
        start = self.find_epoch(record.epoch)
        return start is None or start.promotion != record.promotion


def facts_of(tail: LogTail) -> dict[str, Any]:
    return {
        "epoch": tail.epoch,
        "commit_lsn": int(tail.commit_lsn),
        "committed_at_us": tail.committed_at_us,
        "leader": tail.leader,
    }
