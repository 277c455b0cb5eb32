"""Capture: the leader's changes into the log, and the slot confirmed as far as the log durably holds them.

The one rule: **the slot is never confirmed past what the log holds.** Where the leader's WAL went on without
anything to publish, a `mark` record says so in the log first.

One thread runs a session; it never waits for Kafka while the server waits for a status. Whatever is expected
to pass ends the session and begins another one, from reading the tail of the log: it says who leads, so a
capture follows a promotion by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass

import structlog

from cdc import __version__, failpoints
from cdc.capture_ports import (
    ChangeStream,
    LeaderDatabase,
    LeaderIdentity,
    LogTopic,
    LogWriter,
    Record,
    SlotFacts,
    TailReader,
)
from cdc.errors import CdcError, CheckError, FencedError, LogError, RetryableError, TerminalError
from cdc.events.assembler import Assembler, Resume
from cdc.log.compiled import HOW_ROWS_PASS
from cdc.log.envelope import Envelope, Finisher
from cdc.log.tail import LogTail
from cdc.memory import GIVE_BACK_SECONDS, give_back, work_for_long
from cdc.protocol.lsn import Lsn
from cdc.retry import at_most_every, run_with_retries
from cdc.services.guardian import Guardian
from cdc.services.health import Health
from cdc.services.heartbeat import Heartbeat
from cdc.services.initialize import FIRST_EPOCH
from cdc.services.meters import CaptureMeter
from cdc.services.resume import Place, check_identity, check_slot, check_tail
from cdc.stop import StopToken

log = structlog.get_logger(__name__)

_STATUS_SECONDS = 1.0
"""How often the server hears from us without a reason; wal_sender_timeout is 60 s by default."""
_PROGRESS_SECONDS = 0.1
"""How often at most it hears of progress, or gets a reply that it asked for."""
_READ_BYTES = 1 << 20
_IDLE_READ_SECONDS = 0.5
"""While nothing is under way; also how fast a stop is noticed."""
_BUSY_READ_SECONDS = 0.02
"""While records are under way, their delivery must be noticed soon."""
_PRESSURE_POLL_SECONDS = 0.05
_FLUSH_SECONDS = 8.0
"""Of the 10 s that a daemon has to end."""
_LOST_FLUSH_SECONDS = 2.0
_STUCK_SECONDS = 5.0
_ASK_SECONDS = 10.0
"""Of silence, after which the server is asked for an answer."""
_SILENT_SECONDS = 20.0
"""Of silence, after which the connection is given up when heartbeats fail as well."""
_LOST_SECONDS = 300.0
"""Of silence, after which it is given up in any case. Decoding a large transaction that has nothing to publish may take
long: while it does, the server answers twice in its wal_sender_timeout at least, if that is not 0."""
_SLOT_GRACE_SECONDS = 5.0
_DEAD_USER_SECONDS = 75.0
"""Until it is tried anew, for a slot whose user answers its server nothing, as one whose machine is gone: the server
gives it up after wal_sender_timeout, 60 s by default."""
_SLOT_RETRY_SECONDS = 0.2
"""A walsender that lost its client holds the slot until it notices."""
_STANDBY_SECONDS = 1.0
_PROMOTION_SECONDS = 10.0
_PROMOTION_POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class CaptureSettings:
    """`first_leader` leads when the log does not say who does; `slot` is also the name of the publication.

    With a `node`, that node's changes are captured when it leads, and nothing while another one does."""

    group: str
    first_leader: str
    topic: str
    slot: str
    node: str | None = None
    heartbeat_seconds: float = 1.0
    max_in_flight_bytes: int = 32 * 2**20


class CaptureService:
    """Runs sessions of capture until it is stopped."""

    def __init__(
        self,
        settings: CaptureSettings,
        leader: Callable[[str], LeaderDatabase],
        stream: Callable[[str], ChangeStream],
        topic: LogTopic,
        tail_reader: Callable[[], TailReader],
        writer: Callable[[int, int], LogWriter],
        health: Health | None = None,
        meter: CaptureMeter | None = None,
    ) -> None:
        """The callables connect anew; `leader` and `stream` get the name of the node, `writer` the topic's
        max.message.bytes and the offset that the log goes on at."""
        self._settings = settings
        self._leader = leader
        self._stream = stream
        self._topic = topic
        self._tail_reader = tail_reader
        self._writer = writer
        self._place = Place(settings.first_leader, settings.topic, settings.slot)
        self._own_backends: set[int] = set()
        """Sessions of ours that may hold the slot, as far as the server knows."""
        self._health = health or Health()
        self._meter = meter or CaptureMeter()

    def run(self, stop: StopToken) -> None:
        """Returns when `stop` is set and what was published is confirmed, or 10 s later at most.

        Raises TerminalError or CheckError when an operator must act. Lost connections are retried for ever.
        """
        work_for_long()
        run_with_retries(lambda progressed: self._session(stop, progressed), stop, "capture", self._health.interrupted)

    def _session(self, stop: StopToken, progressed: Callable[[], None]) -> None:
        give_back()  # what a session before had under way
        with suppress(_StoppedError):
            newest = self._stand_by(stop, progressed)
            node = newest.leader if newest and newest.leader else self._settings.first_leader
            self._place = Place(node, self._settings.topic, self._settings.slot)
            try:
                self._stream_from(node, newest, stop, progressed)
            except (TerminalError, CheckError) as error:
                # A promotion takes the old leader's slot and identity away: that is not what ended us.
                now = self._newest(stop, newest) if newest else None
                if newest and now and (now.epoch, now.leader) != (newest.epoch, newest.leader):
                    raise RetryableError(f"{now.leader} leads now", where=f"topic {self._settings.topic}") from error
                raise

    def _stream_from(self, node: str, newest: LogTail | None, stop: StopToken, progressed: Callable[[], None]) -> None:
        """Until something ends it: a stop returns, all else raises."""
        with ExitStack() as cleanup:
            leader = cleanup.enter_context(closing(self._leader(node)))
            stream = cleanup.enter_context(closing(self._stream(node)))
            self._await_promotion(leader, newest, stop)
            identity = check_identity(leader.identity(self._settings.group), stream.identify(), self._place)
            topic = self._topic.describe()
            guardian = Guardian(lambda: self._leader(node), self._topic, identity, self._place, self._meter)
            guardian.inspect(leader, topic)
            if not self._acquire(leader, stream, stop):
                return
            slot = check_slot(leader.slot(self._settings.slot), self._place)
            tail = self._read_tail(stream, stop, newest)
            if tail is not None and tail.leader not in ("", node):
                raise RetryableError(f"{tail.leader} leads now", where=f"topic {self._settings.topic}")
            tail = check_tail(tail, identity, slot, leader.wal_lsn(), self._place)
            writer = cleanup.enter_context(closing(self._writer(topic.max_message_bytes, tail.high_watermark)))
            assembler = self._assembler(leader, identity, tail, slot)
            leader.close()
            self._meter.epoch = identity.epoch
            self._meter.freshness.begin((_now_us() - tail.committed_at_us) / 1e6)
            cleanup.callback(self._meter.freshness.end)
            give_back()  # what reading the tail took
            heartbeat = cleanup.enter_context(
                Heartbeat(
                    lambda: self._leader(node),
                    self._settings.group.encode(),
                    self._settings.heartbeat_seconds,
                    self._meter.freshness,
                )
            )
            log.info(
                "capture streams",
                node=node,
                slot=self._settings.slot,
                topic=self._settings.topic,
                epoch=identity.epoch,
                lsn=str(tail.end_lsn),
                rows=HOW_ROWS_PASS,
            )
            cleanup.enter_context(guardian)
            session = CaptureSession(
                self._settings, stream, writer, assembler, tail, heartbeat, progressed, guardian.check,
                self._health, self._meter,
            )  # fmt: skip
            session.run(stop)

    def _stand_by(self, stop: StopToken, progressed: Callable[[], None]) -> LogTail | None:
        """The log's end, as soon as a node leads that we may capture. None when the log does not tell."""
        own, known_epoch = self._settings.node, 0
        newest = self._newest(stop, None)
        while own is not None and newest is not None and newest.leader not in ("", own):
            if newest.epoch != known_epoch:
                self._check_fenced(own, newest)
                log.info("another node leads, standing by", leader=newest.leader, epoch=newest.epoch)
                known_epoch = newest.epoch
            self._meter.rests()
            self._health.works("standing by")
            progressed()
            if stop.wait(_STANDBY_SECONDS):
                raise _StoppedError
            newest = self._newest(stop, newest)
        return newest

    def _newest(self, stop: StopToken, known: LogTail | None) -> LogTail | None:
        """Where the log ends; at first looked for as far back as a leader may have written that was none any more.

        What is wrong with the log is told later, after what is wrong with the leader.
        """

        def on_wait() -> None:
            if stop.is_set():
                raise _StoppedError

        depth = self._settings.max_in_flight_bytes + 2 * _READ_BYTES
        with closing(self._tail_reader()) as reader, suppress(LogError):
            if known is not None:
                return reader.read_tail(on_wait, back_to=known.next_offset - 1)
            return reader.read_tail(on_wait, depth_bytes=depth)
        return None

    def _check_fenced(self, node: str, newest: LogTail) -> None:
        """Raises FencedError when `node` led before and nobody closed it: it may have taken writes that are nowhere
        else. A node that a planned promotion has closed becomes a follower soon."""
        with closing(self._leader(node)) as database:
            identity = database.identity(self._settings.group)
            if identity is not None and identity.epoch < newest.epoch and not database.fenced(self._settings.topic):
                raise FencedError(
                    f"this node led epoch {identity.epoch}, the log is in epoch {newest.epoch}: {newest.leader} leads",
                    f"run cdc rejoin --node {node}, which saves what only this node has, then start capture again",
                    node,
                )

    def _await_promotion(self, leader: LeaderDatabase, newest: LogTail | None, stop: StopToken) -> None:
        """A node that the log names may not be open yet."""
        if newest is None or not newest.leader:
            return
        deadline = time.monotonic() + _PROMOTION_SECONDS
        while True:
            identity = leader.identity(self._settings.group)
            if identity is not None and identity.epoch >= newest.epoch:
                return
            if newest.epoch == FIRST_EPOCH:
                return  # there was no promotion: cdc init was interrupted, or the leader is not the one it was
            if time.monotonic() > deadline:
                raise RetryableError(
                    f"the log is in epoch {newest.epoch}, and {newest.leader} is not open for it yet",
                    f"if nobody is at it: cdc promote --follower {newest.leader}",
                    newest.leader,
                )
            if stop.wait(_PROMOTION_POLL_SECONDS):
                raise _StoppedError

    def _acquire(self, leader: LeaderDatabase, stream: ChangeStream, stop: StopToken) -> bool:
        """Start the stream, which only one process can: from here on nobody else publishes.

        False when `stop` was set first.
        """
        began = time.monotonic()
        seen: set[tuple[int | None, str | None, Lsn]] = set()
        told = False
        while True:
            slot = check_slot(leader.slot(self._settings.slot), self._place)
            self._own_backends.add(stream.backend_pid)  # before the answer, which may be lost on its way
            try:
                stream.start(self._settings.slot, self._settings.slot, 0)
            except FencedError as error:
                self._own_backends.discard(stream.backend_pid)
                if slot.active_pid in self._own_backends:
                    raise RetryableError("the server has not noticed yet that our connection is lost") from error
                seen.add((slot.active_pid, slot.heard_of, slot.confirmed_flush_lsn))
                waited = time.monotonic() - began
                lives = len(seen) > 2  # the last that one said may still be on its way
                if waited > (_SLOT_GRACE_SECONDS if lives else _DEAD_USER_SECONDS):
                    raise self._in_use(slot, lives) from error
                if waited > _SLOT_GRACE_SECONDS and not told:
                    told = True
                    log.warning(
                        "the slot is in use by one of whom the server hears nothing, waiting until it is given up",
                        slot=self._settings.slot,
                        user=slot.active_for,
                        pid=slot.active_pid,
                    )
                if stop.wait(_SLOT_RETRY_SECONDS):
                    return False
            else:
                self._own_backends = {stream.backend_pid}
                return True

    def _in_use(self, slot: SlotFacts, lives: bool) -> CdcError:
        user = f"by {slot.active_for} (pid {slot.active_pid})" if slot.active_for else "by another process"
        what = f"replication slot {self._settings.slot} is in use {user}"
        if lives:
            todo = "one capture a group runs at a time: stop the other one, or leave it the work"
            return FencedError(what, todo, self._place.leader)
        return RetryableError(
            f"{what}, of whom the server hears nothing",
            f"it is waited for; if its machine is gone: SELECT pg_terminate_backend({slot.active_pid})",
            self._place.leader,
        )

    def _read_tail(self, stream: ChangeStream, stop: StopToken, newest: LogTail | None) -> LogTail | None:
        """Meanwhile the server hears from us.

        `newest` was found by looking back far; what it found is looked at again with all that came since. A capture
        that was taken for dead may have written old records behind it, which alone would tell of an older end.
        """

        def on_wait() -> None:
            if stop.is_set():
                raise _StoppedError
            say_alive()

        say_alive = at_most_every(_STATUS_SECONDS, lambda: stream.send_status(0, 0, 0))
        with closing(self._tail_reader()) as reader:
            return reader.read_tail(on_wait, back_to=newest.next_offset - 1 if newest else None)

    def _assembler(self, leader: LeaderDatabase, identity: LeaderIdentity, tail: LogTail, slot: SlotFacts) -> Assembler:
        envelope = Envelope(self._settings.group, leader.database(), __version__, identity.epoch)
        again_lsn = tail.streamed_commit_lsn if slot.confirmed_flush_lsn <= tail.streamed_commit_lsn else 0
        resume = Resume(tail.commit_lsn, tail.end_lsn, tail.partial_commit_lsn, tail.partial_seq, again_lsn)
        return Assembler(envelope, Finisher(self._place.leader), leader.type_names(), resume, _now_us)


class _StoppedError(Exception):
    """The stop token was set while something long was going on."""


class CaptureSession:
    """One connection's stream into one producer. Received, published, delivered and confirmed LSN only grow,
    and each stays at or behind the one before."""

    def __init__(
        self,
        settings: CaptureSettings,
        stream: ChangeStream,
        writer: LogWriter,
        assembler: Assembler,
        tail: LogTail,
        heartbeat: Heartbeat,
        progressed: Callable[[], None],
        check: Callable[[], None] = lambda: None,
        health: Health | None = None,
        meter: CaptureMeter | None = None,
    ) -> None:
        """`progressed` is called whenever the slot may move on, `check` again and again: what it raises ends it all."""
        self._check = check
        self._health = health or Health()
        self._meter = meter or CaptureMeter()
        self._heartbeat = heartbeat
        self._progressed = progressed
        self._settings = settings
        self._stream = stream
        self._writer = writer
        self._assembler = assembler
        self._confirmed_lsn = int(tail.end_lsn)
        self._told_lsn = 0
        self._told_at = 0.0
        self._completed_at = time.monotonic()
        self._delivered_at = time.monotonic()
        self._deliveries = 0
        self._counted = 0
        self._stuck = False
        self._heard_at = time.monotonic()
        self._silent = False
        self._give_back = at_most_every(GIVE_BACK_SECONDS, give_back)

    def run(self, stop: StopToken) -> None:
        """Until `stop`; then what was published is waited for and confirmed."""
        try:
            while not stop.is_set():
                self._step()
        except RetryableError:
            # What is under way may still arrive; the next session then need not publish it again.
            with suppress(CdcError):
                self._writer.flush(_LOST_FLUSH_SECONDS)
            raise
        self._finish()

    def _step(self) -> None:
        self._check()
        if self._writer.bytes_in_flight < self._settings.max_in_flight_bytes:
            self._pump()
        else:
            self._writer.poll(_PRESSURE_POLL_SECONDS)
            self._heard_at = time.monotonic()  # nobody listened
        self._writer.poll(0)
        self._confirm()
        self._mark_when_due()
        self._tell_when_due()
        self._watch_delivery()
        self._watch_leader()
        self._measure()

    def _measure(self) -> None:
        meter, assembler = self._meter, self._assembler
        meter.transactions += assembler.transactions - self._counted
        self._counted = assembler.transactions
        meter.in_flight_bytes = self._writer.bytes_in_flight
        meter.received_lsn, meter.durable_lsn = assembler.received_lsn, self._confirmed_lsn
        if not self._stuck and not self._silent:
            self._health.works("streaming")

    def _pump(self) -> None:
        """Read what has arrived and publish what is ready."""
        busy = self._writer.bytes_in_flight > 0
        frames = self._stream.read(_READ_BYTES, _BUSY_READ_SECONDS if busy else _IDLE_READ_SECONDS)
        if not frames:
            if not busy:
                self._give_back()
            return
        self._heard_at = time.monotonic()
        before = self._assembler.complete_lsn
        records = self._assembler.feed(frames)
        if records:
            self._publish(records)
            if self._stream.gathers:
                self._writer.send()  # the next ones come milliseconds later, and they do so together
        if self._assembler.complete_lsn > before:
            self._completed_at = time.monotonic()
        if records and self._assembler.in_transaction:
            failpoints.hit(failpoints.CAPTURE_MID_TRANSACTION)

    def _publish(self, records: Sequence[Record]) -> None:
        before = self._writer.bytes_in_flight
        self._writer.publish(records, self._assembler.complete_lsn)
        self._meter.records += len(records)
        self._meter.record_bytes += self._writer.bytes_in_flight - before
        failpoints.hit(failpoints.CAPTURE_PRODUCED)

    def _confirm(self) -> None:
        """The slot may go to the end of the newest transaction that is durable with all before it."""
        delivered = self._writer.delivered
        if delivered > self._confirmed_lsn:
            failpoints.hit(failpoints.CAPTURE_DELIVERED)
            self._confirmed_lsn = delivered
            self._meter.freshness.delivered(delivered)
            self._progressed()

    def _mark_when_due(self) -> None:
        """When nothing is pending and the leader's WAL went on: asked for, or after two heartbeats' time."""
        assembler = self._assembler
        if assembler.in_transaction or self._writer.bytes_in_flight or assembler.received_lsn <= assembler.complete_lsn:
            return
        silence = time.monotonic() - self._completed_at
        if assembler.reply_requested or silence > 2 * self._settings.heartbeat_seconds:
            self._publish([assembler.mark()])
            self._completed_at = time.monotonic()

    def _tell_when_due(self) -> None:
        """A status: every second, and at most ten times a second when there is news or a reply is wanted."""
        silence = time.monotonic() - self._told_at
        news = self._confirmable_lsn > self._told_lsn or self._assembler.reply_requested
        if silence > _STATUS_SECONDS or (news and silence > _PROGRESS_SECONDS):
            self._tell()

    @property
    def _confirmable_lsn(self) -> int:
        """Not past what this connection was sent, though the log may hold more from one before: the server would let go
        of catalog rows that it still needs to decode what it is about to send. 0 confirms nothing."""
        return min(self._confirmed_lsn, self._assembler.streamed_lsn)

    def _tell(self) -> None:
        confirmed = self._confirmable_lsn
        ask = time.monotonic() - self._heard_at > _ASK_SECONDS
        self._stream.send_status(self._assembler.streamed_lsn, confirmed, confirmed, ask)
        self._assembler.reply_requested = False
        self._told_lsn, self._told_at = confirmed, time.monotonic()

    def _watch_delivery(self) -> None:
        """Say when Kafka takes nothing, and when it does again.

        A leader that shuts down waits until we confirm all, which we cannot meanwhile. It is let go: it takes
        no heartbeats any more, and its slot keeps what we did not confirm.
        """
        deliveries = self._writer.deliveries
        if not self._writer.bytes_in_flight or deliveries != self._deliveries:
            self._deliveries, self._delivered_at = deliveries, time.monotonic()
        stuck = time.monotonic() - self._delivered_at > _STUCK_SECONDS
        if stuck != self._stuck:
            self._stuck = stuck
            self._say_stuck(stuck)
        if stuck and self._heartbeat.silence > _STUCK_SECONDS + self._settings.heartbeat_seconds:
            raise RetryableError(
                f"neither the leader nor kafka has answered for {_STUCK_SECONDS:.0f} s",
                "see that the brokers run",
                f"topic {self._settings.topic}",
            )

    def _watch_leader(self) -> None:
        """An idle leader still answers when it is asked; one that is dead or cut off may leave no other sign."""
        silence = time.monotonic() - self._heard_at
        if (silence > _SILENT_SECONDS) != self._silent:
            self._silent = not self._silent
            if self._silent:
                self._health.stuck(f"the leader has not answered for {_SILENT_SECONDS:.0f} s")
                log.warning("the leader does not answer", slot=self._settings.slot, seconds=_SILENT_SECONDS)
            else:
                log.info("the leader answers again", slot=self._settings.slot)
        beats = self._heartbeat.silence < _SILENT_SECONDS + self._settings.heartbeat_seconds
        if silence > _LOST_SECONDS or (self._silent and not beats):
            raise RetryableError(
                f"the leader has not answered for {silence:.0f} s",
                "see that it runs and can be reached",
                f"slot {self._settings.slot}",
            )

    def _say_stuck(self, stuck: bool) -> None:
        facts = {"topic": self._settings.topic, "bytes_in_flight": self._writer.bytes_in_flight}
        if stuck:
            self._health.stuck(f"the log has taken no records for {_STUCK_SECONDS:.0f} s")
            log.warning("the log takes no records, the slot waits", seconds=_STUCK_SECONDS, **facts)
        else:
            log.info("the log takes records again", **facts)

    def _finish(self) -> None:
        if not self._writer.flush(_FLUSH_SECONDS):
            log.warning("records are not acknowledged in time, they will be published again", seconds=_FLUSH_SECONDS)
        self._confirm()
        self._tell()
        log.info("capture stopped", slot=self._settings.slot, lsn=str(Lsn(self._confirmed_lsn)))


def _now_us() -> int:
    return time.time_ns() // 1000
