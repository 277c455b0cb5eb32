"""`cdc promote`: a follower becomes the leader, in steps that may be repeated by anybody until they are done.

The log decides. The `epoch` record that names the new leader ends the old epoch: whatever the old leader writes
after it is void, and whatever comes before it the new leader applies before it takes a write. So it does not matter
for correctness whether the old leader is dead; that it is closed for writes first (a planned switchover) is what makes
sure that nothing is left behind on it.

Each step looks at the world, does what is missing, and goes on: a run that was killed is continued by the same command.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from cdc import __version__, failpoints
from cdc.capture_ports import LeaderIdentity, Record
from cdc.errors import CdcError, CheckError, FencedError, RetryableError
from cdc.events.position import Position
from cdc.log.envelope import Envelope, Finisher, finished
from cdc.log.tail import LogTail
from cdc.promotion_ports import STALE, EpochStart, NodeState, PromotionNode, PromotionRecord
from cdc.protocol.lsn import Lsn
from cdc.services.promotion_report import REPORT, NodeReport, PromotionReport, StepReport, loss
from cdc.services.promotion_survey import PLANNED, Situation, Survey, facts_of

DONE, ABORTED, OVERTAKEN = "done", "aborted", "overtaken"
"""How a promotion ended. Overtaken: the log gave its epoch, or the one after it, to another one."""

SEQUENCE_MARGIN = 10_000
"""How many values an emergency leaves out after the last one that is known: what the dead leader may have taken."""

_UNKNOWN = "unknown"
_POLL_SECONDS = 0.05
_PUBLISH_SECONDS = 15.0
_CAPTURE_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Hooks:
    """The operator's own steps, called with the new leader's name and epoch. They raise CheckError when they fail."""

    before_open: Callable[[str, int], None] | None = None
    after_promote: Callable[[str, int], None] | None = None


class Promotion:
    """One run of the runbook, with the nodes that the survey has locked."""

    def __init__(self, survey: Survey, hooks: Hooks, tell: Callable[[str], None]) -> None:
        """`tell` gets a line a step."""
        self._survey = survey
        self._settings = survey.settings
        self._world = survey.world
        self._nodes = survey.nodes
        self._hooks = hooks
        self._tell = tell
        self._steps: list[StepReport] = []
        self._remaining: list[str] = []

    def run(self, situation: Situation) -> PromotionReport:
        """All that is left of the steps. Raises CheckError with the first of the situation's problems, RetryableError
        when a step takes too long: run it again."""
        self._settle(situation.tail, situation.states, keep=situation.record)
        situation = self._survey.let_pass(situation, self._tell, lock=True)
        if situation.problems:
            raise CheckError(situation.problems[0].text, "see cdc promote --dry-run for all of it", situation.follower)
        follower = self._nodes[situation.follower]
        record = situation.record or self._begin(situation, follower)
        follower.note(record.promotion, {"mode": record.mode, "reason": record.report.get("reason")})
        if self._survey.tail().epoch < record.epoch:
            self._end_old_epoch(record, situation, follower)
        start = self._claimed(record, situation)
        self._drain(record, follower)
        self._prepare(record, situation, follower)
        self._step("open", lambda: self._open(record, situation, follower))
        self._demote(record, situation)
        self._finish(record, situation, follower)
        report = self._report(record, situation, start)
        follower.note(record.promotion, {REPORT: asdict(report)})
        follower.end(record.promotion, DONE)
        return report

    def abort(self) -> str:
        """Take back every promotion whose epoch has not begun; the line that says so. Raises FencedError when it has,
        CheckError when there is none, or when the leader that it may have closed cannot be reached."""
        self._survey.connect(lock=True)
        tail = self._survey.tail()
        states = {name: node.state() for name, node in self._nodes.items()}
        self._settle(tail, states)
        begun = {
            name: state.promotion
            for name, state in states.items()
            if state.promotion is not None and state.promotion.outcome is None
            and not self._survey.overtaken(tail, state.promotion)
        }  # fmt: skip
        fenced = {
            name: state.fence
            for name, state in states.items()
            if state.fence is not None and state.fence.promotion != STALE
        }
        if not fenced and not begun:
            raise CheckError("no promotion is under way", "nothing to abort", self._settings.group)
        if any(name != tail.leader for name in fenced) or any(r.epoch <= tail.epoch for r in begun.values()):
            raise FencedError(
                f"epoch {tail.epoch}, led by {tail.leader}, has begun: the promotion cannot be taken back",
                f"complete it: cdc promote --follower {tail.leader}",
                self._settings.topic,
            )
        if tail.leader in self._survey.unreachable and any(record.mode == PLANNED for record in begun.values()):
            raise CheckError(
                f"it may be closed for writes, and cannot be reached: {self._survey.unreachable[tail.leader]}",
                "repeat when it is back, or promote with --leader-is-dead",
                tail.leader,
            )
        for name, fence in fenced.items():
            self._nodes[name].unfence(fence.promotion)
        for name, record in begun.items():
            self._nodes[name].end(record.promotion, ABORTED)
            self._write([self._envelope(tail.epoch).runbook(self._facts(record, "abort"))])
        return f"aborted: {tail.leader} leads on, in epoch {tail.epoch}"

    def _settle(self, tail: LogTail, states: dict[str, NodeState], keep: PromotionRecord | None = None) -> None:
        """Write down the end of promotions that another one has overtaken, but of `keep`."""
        for name, state in states.items():
            record = state.promotion
            if record is None or record.outcome is not None or (keep and record.promotion == keep.promotion):
                continue
            if self._survey.overtaken(tail, record):
                self._nodes[name].end(record.promotion, OVERTAKEN)

    def _step(self, name: str, do: Callable[[], Any]) -> Any:
        self._tell(f"{name} ...")
        began = time.monotonic()
        found = do()
        seconds = time.monotonic() - began
        self._steps.append(StepReport(name, round(seconds, 3), str(found or "")))
        self._tell(f"{name}: {found or 'done'} ({seconds:.2f} s)")
        failpoints.hit(failpoints.PROMOTE_STEP + name)
        return found

    def _begin(self, situation: Situation, follower: PromotionNode) -> PromotionRecord:
        record = PromotionRecord(
            uuid.uuid4().hex[:12], situation.epoch, situation.old_leader, situation.mode, self._survey.options.who,
            time.time(), None, {"reason": self._survey.options.leader_is_dead},
        )  # fmt: skip
        at = situation.tail.high_watermark

        def begin() -> str:
            follower.begin(record)
            self._write([self._envelope(situation.tail.epoch).runbook(self._facts(record, "begin"))])
            if record.mode == PLANNED:
                self._wait(
                    lambda: self._survey.end().next_offset > at + 1,
                    "capture does not go on in the log", f"see the log of cdc capture for {record.old_leader}",
                )  # fmt: skip
            return f"promotion {record.promotion}, {record.mode}, epoch {record.epoch}"

        self._step("begin", begin)
        return record

    def _end_old_epoch(self, record: PromotionRecord, situation: Situation, follower: PromotionNode) -> None:
        if record.mode == PLANNED:
            old = self._old_leader(record, situation)
            fence_lsn = self._step("fence", lambda: self._fence(record, old, follower))
            self._step("publish", lambda: self._published(fence_lsn))
        self._step("epoch", lambda: self._write_epoch(record, situation, follower))

    def _old_leader(self, record: PromotionRecord, situation: Situation) -> PromotionNode:
        if record.old_leader in self._nodes:
            return self._nodes[record.old_leader]
        raise CheckError(
            f"{record.old_leader} cannot be reached any more: {situation.unreachable.get(record.old_leader, '')}",
            "wait for it; or cdc promote --abort, and then promote with --leader-is-dead",
            record.old_leader,
        )

    def _fence(self, record: PromotionRecord, old: PromotionNode, follower: PromotionNode) -> Lsn:
        if "fence_began_at" not in self._noted(follower):
            follower.note(record.promotion, {"fence_began_at": time.time()})
        return old.fence(record.promotion, old.published(self._settings.slot), self._survey.options.grace_seconds)

    def _published(self, fence_lsn: Lsn) -> str:
        tail = self._wait(
            lambda: self._reaches(fence_lsn),
            f"the log does not reach the fence {fence_lsn}",
            "see that cdc capture runs; the leader stays closed until this promotion goes on, or cdc promote --abort",
        )
        return f"the log holds all up to {tail.end_lsn}"

    def _reaches(self, fence_lsn: Lsn) -> LogTail | None:
        tail = self._survey.end()
        return tail if tail.end_lsn > fence_lsn else None

    def _write_epoch(self, record: PromotionRecord, situation: Situation, follower: PromotionNode) -> str:
        tail = self._survey.tail()
        if tail.epoch >= record.epoch:
            return f"the log is in epoch {tail.epoch}"
        if record.mode == PLANNED and not _closed_by(self._old_leader(record, situation).state(), record):
            raise CheckError(
                "it was opened again while this promotion was going on",
                "see who did it, then repeat",
                record.old_leader,
            )
        system = self._world.system(follower.name)
        start = follower.wal_lsn()
        envelope = self._envelope(record.epoch)
        envelope.begin(0, start - 1, tail.commit_lsn, _now_us(), _now_us())
        why = {"promotion": record.promotion, "by": record.started_by, "reason": record.report.get("reason")}
        written = envelope.epoch(follower.name, system.system_id, system.timeline, self._settings.slot, tail.epoch, why)
        follower.note(record.promotion, {"old_end": facts_of(tail)})
        self._write([finished(written, start)])
        return f"epoch {record.epoch} begins after {tail.commit_lsn}"

    def _claimed(self, record: PromotionRecord, situation: Situation) -> EpochStart:
        """Where our epoch begins. Of two promotions at the same time, the log took one."""
        start = self._survey.find_epoch(record.epoch)
        if start is None or start.promotion != record.promotion:
            leader = start.leader if start else "another node"
            self._nodes[situation.follower].end(record.promotion, OVERTAKEN)
            raise FencedError(
                f"{leader} was promoted for epoch {record.epoch} at the same time, and was first",
                "see cdc status; this promotion has done nothing that counts",
                situation.follower,
            )
        return start

    def _drain(self, record: PromotionRecord, follower: PromotionNode) -> None:
        def drained() -> str:
            position = self._wait(
                lambda: _in_epoch(follower.position(), record.epoch),
                f"{follower.name} does not reach the end of the old epoch",
                f"see the log of cdc apply --follower {follower.name}, start it if it does not run, and repeat",
            )
            return f"{follower.name} holds all before epoch {position.epoch}"

        self._step("drain", drained)

    def _prepare(self, record: PromotionRecord, situation: Situation, follower: PromotionNode) -> None:
        """Sequences, publication, slot. Nothing when the node is open already."""
        state = follower.state()
        if state.identity is not None and state.identity.epoch >= record.epoch:
            return
        self._step("sequences", lambda: f"{self._set_sequences(record, follower)} set")
        self._step("slot", lambda: self._make_slot(record, follower))

    def _set_sequences(self, record: PromotionRecord, follower: PromotionNode) -> int:
        old = self._nodes.get(record.old_leader)
        if record.mode == PLANNED and old is not None:
            return follower.set_sequences(old.sequences())
        return follower.advance_sequences(SEQUENCE_MARGIN)

    def _make_slot(self, record: PromotionRecord, follower: PromotionNode) -> Lsn:
        """The log says first that nothing was published between its epoch record and the slot's beginning."""
        follower.publish(self._settings.slot, self._settings.tables)
        start = follower.make_slot(self._settings.slot)
        tail = self._survey.tail()
        if (tail.epoch, tail.leader) != (record.epoch, follower.name):
            raise FencedError(
                f"the log is in epoch {tail.epoch}, led by {tail.leader}", "see cdc status", follower.name
            )
        envelope = self._envelope(record.epoch)
        envelope.begin(0, start - 1, tail.commit_lsn, _now_us(), _now_us())
        self._write([Finisher(follower.name)(envelope.mark(1), start)])
        return start

    def _open(self, record: PromotionRecord, situation: Situation, follower: PromotionNode) -> str:
        state = follower.state()
        if state.identity is None or state.identity.epoch < record.epoch:
            if self._hooks.before_open is not None:
                self._hooks.before_open(follower.name, record.epoch)
            system = self._world.system(follower.name)
            topic = self._world.topic.describe()
            follower.lead(
                LeaderIdentity(
                    self._settings.group, record.epoch, system.system_id, system.timeline, self._settings.slot,
                    self._settings.topic, topic.topic_id, follower.name,
                ),
                record.promotion,
            )  # fmt: skip
        return f"{follower.name} takes writes"

    def _demote(self, record: PromotionRecord, situation: Situation) -> None:
        """Every node that led, or was to lead, and certainly took no write that the log lacks, follows."""
        found = {name: self._last_of(name) for name in self._nodes if name != situation.follower}
        self._remaining += [
            f"when {name} is back: cdc rejoin --node {name}"
            for name in sorted({record.old_leader, *found})
            if name not in self._nodes or found[name] == _UNKNOWN
        ]
        for name, place in found.items():
            if place is None:
                self._nodes[name].drop_slot(self._settings.slot)  # a run that was killed may have left it
        places = {name: place for name, place in found.items() if isinstance(place, Position)}
        if not places:
            return

        def demote() -> str:
            for name, position in places.items():
                self._nodes[name].follow(position._replace(leader=situation.follower), self._settings.slot)
            return ", ".join(f"{name} follows from {position.commit_lsn}" for name, position in places.items())

        self._step("demote", demote)

    def _last_of(self, name: str) -> Position | str | None:
        """What a node that is none of the leader's followers holds last; None for a follower, `_UNKNOWN` for a node
        that may have taken writes after its epoch was over."""
        state = self._nodes[name].state()
        if state.identity is None:
            # Its identity and its first write would have come with one transaction, so it took none.
            return state.position if state.position is not None and state.position.leader == name else None
        start = self._survey.find_epoch(state.identity.epoch + 1)
        fence = state.fence
        if start is None or fence is None or fence.fence_lsn is None or fence.promotion != start.promotion:
            return _UNKNOWN
        before = self._world.log.read_tail(end=start.offset)
        assert before is not None
        return Position(
            before.epoch, before.commit_lsn, before.end_lsn, before.committed_at_us, start.offset, before.leader
        )

    def _finish(self, record: PromotionRecord, situation: Situation, follower: PromotionNode) -> None:
        def streams() -> str:
            deadline = time.monotonic() + _CAPTURE_SECONDS
            while not follower.state().slot_active:
                if time.monotonic() > deadline:
                    self._remaining.append("start cdc capture: nothing streams from the new leader yet")
                    return "nothing streams yet"
                time.sleep(_POLL_SECONDS)
            return "capture streams from the new leader"

        self._step("capture", streams)
        if not follower.takes_writes():
            self._remaining.append(
                f"new sessions of {follower.name} are still read-only: take default_transaction_read_only out of its "
                "configuration (postgresql.conf, ALTER SYSTEM, ALTER ROLE)"
            )
        if self._hooks.after_promote is not None:
            try:
                self._hooks.after_promote(follower.name, record.epoch)
            except CdcError as error:
                self._remaining.append(str(error))
        self._remaining.append(
            "point applications at the new leader (DNS, pooler), unless their libpq looks for it itself"
        )

    # reporting

    def _report(self, record: PromotionRecord, situation: Situation, start: EpochStart) -> PromotionReport:
        noted = self._noted(self._nodes[situation.follower])
        opened = noted.get("opened_at")
        began = noted.get("fence_began_at", record.started_at)
        return PromotionReport(
            promotion=record.promotion,
            group=self._settings.group,
            mode=record.mode,
            new_leader=situation.follower,
            old_leader=record.old_leader,
            epoch=record.epoch,
            by=record.started_by,
            reason=record.report.get("reason"),
            log_end=str(Lsn(noted.get("old_end", {}).get("commit_lsn", 0))),
            log_offset=start.offset,
            loss=loss(record.mode, record.old_leader, noted.get("old_end", {}), record.started_at),
            writes_refused_seconds=round(opened - began, 3) if opened else None,
            nodes=[_node_report(name, state) for name, state in situation.states.items()],
            unreachable=situation.unreachable,
            steps=self._steps,
            remaining=self._remaining,
        )

    def _noted(self, follower: PromotionNode) -> dict[str, Any]:
        record = follower.state().promotion
        return record.report if record else {}

    # the log

    def _envelope(self, epoch: int) -> Envelope:
        return Envelope(self._settings.group, "", __version__, epoch)

    def _facts(self, record: PromotionRecord, step: str) -> dict[str, str | int | None]:
        return {
            "promotion": record.promotion,
            "step": step,
            "old_leader": record.old_leader,
            "mode": record.mode,
            "by": record.started_by,
            "reason": record.report.get("reason"),
        }

    def _write(self, records: list[Record]) -> None:
        writer = self._survey.writer()
        writer.publish(records, 1)
        if not writer.flush(_PUBLISH_SECONDS):
            raise RetryableError(
                "a record of the promotion is not acknowledged",
                "see that min.insync.replicas brokers run, then repeat",
                f"topic {self._settings.topic}",
            )

    def _wait(self, condition: Callable[[], Any], complaint: str, remedy: str) -> Any:
        deadline = time.monotonic() + self._settings.timeout_seconds
        while not (found := condition()):
            if time.monotonic() > deadline:
                raise RetryableError(
                    f"{complaint} within {self._settings.timeout_seconds:.0f} s", remedy, self._settings.group
                )
            time.sleep(_POLL_SECONDS)
        return found


def _in_epoch(position: Position, epoch: int) -> Position | None:
    return position if position.epoch >= epoch else None


def _closed_by(state: NodeState, record: PromotionRecord) -> bool:
    fence = state.fence
    return fence is not None and fence.promotion == record.promotion and fence.fence_lsn is not None


def _node_report(name: str, state: NodeState) -> NodeReport:
    position = state.position
    return NodeReport(name, position.epoch if position else None, str(position.commit_lsn) if position else None)


def _now_us() -> int:
    return time.time_ns() // 1000
