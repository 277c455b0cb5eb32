"""The one rule of capture, played through by hand: the slot is never confirmed past what the log durably holds.

The stream and the writer are scripted: a test decides what has arrived and what has become durable.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.capture_ports import Record, SystemFacts
from cdc.errors import RetryableError
from cdc.log.tail import LogTail
from cdc.protocol.lsn import Lsn
from cdc.services import capture
from cdc.services.capture import CaptureSession, CaptureSettings
from cdc.services.heartbeat import Heartbeat
from cdc.stop import StopToken
from tests.support import wire
from tests.support.capture import ORDERS, assembler, events, links, relation, transaction

TAIL = LogTail(1, Lsn(99), Lsn(100), 0, 1, 1, Lsn(0), 0)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time_ns(self) -> int:
        return int(self.now * 1e9)


class ScriptedStream:
    """Every `read` takes the next batch of frames; statuses are kept."""

    backend_pid = 1

    def __init__(self) -> None:
        self.batches: deque[list[bytes]] = deque()
        self.statuses: list[tuple[int, int, int]] = []
        self.asked = self.fast = False
        self.reads = 0

    def identify(self) -> SystemFacts:
        raise NotImplementedError

    def start(self, slot: str, publication: str, start_lsn: int) -> None:
        raise NotImplementedError

    def read(self, max_bytes: int, timeout: float) -> list[bytes]:
        self.reads += 1
        return self.batches.popleft() if self.batches else []

    @property
    def gathers(self) -> bool:
        return self.fast

    def send_status(self, written: int, flushed: int, applied: int, ask: bool = False) -> None:
        self.statuses.append((written, flushed, applied))
        self.asked = ask

    def close(self) -> None:
        pass


class ScriptedWriter:
    """Batches are durable, in order, when the test says so."""

    def __init__(self) -> None:
        self.batches: deque[tuple[list[Record], int]] = deque()
        self.durable: list[Record] = []
        self.delivered = 0
        self.deliveries = 0
        self.published: list[Record] = []
        self.sent: list[Record] = []

    @property
    def bytes_in_flight(self) -> int:
        return sum(len(value) for records, _ in self.batches for _, value in records)

    def publish(self, records: Sequence[Record], progress: int) -> None:
        self.batches.append((list(records), progress))
        self.published += records

    def send(self) -> None:
        self.sent = list(self.published)

    def deliver(self, batches: int = 1) -> None:
        for _ in range(min(batches, len(self.batches))):
            records, self.delivered = self.batches.popleft()
            self.durable += records
            self.deliveries += 1

    def poll(self, timeout: float) -> None:
        pass

    def flush(self, timeout: float) -> bool:
        self.deliver(len(self.batches))
        return True

    def close(self) -> None:
        pass


class Played:
    """A session under a clock that is moved by hand."""

    def __init__(self, clock: Clock, max_in_flight_bytes: int = 1 << 20) -> None:
        self.clock = clock
        self.stream, self.writer = ScriptedStream(), ScriptedWriter()
        self.heartbeat_silence = 0.0
        settings = CaptureSettings("shop", "us-east", "shop.log", "cdc_shop", None, 1.0, max_in_flight_bytes)
        self.session = CaptureSession(
            settings, self.stream, self.writer, assembler(), TAIL, cast(Heartbeat, _Silence(self)), lambda: None
        )

    def step(self, *frames: bytes, seconds: float = 0.2) -> None:
        if frames:
            self.stream.batches.append(list(frames))
        self.clock.now += seconds
        self.session._step()

    @property
    def confirmed(self) -> int:
        return self.stream.statuses[-1][1] if self.stream.statuses else 0


class _Silence:
    def __init__(self, played: Played) -> None:
        self._played = played

    @property
    def silence(self) -> float:
        return self._played.heartbeat_silence


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(capture, "time", clock)
    return clock


def insert(commit_lsn: int) -> list[bytes]:
    return transaction(commit_lsn, wire.insert(ORDERS, ["1", "x"]))


def test_a_commit_is_confirmed_when_it_is_durable_and_not_before(clock: Clock) -> None:
    played = Played(clock)
    played.step(relation(), *insert(200))
    assert played.confirmed == 100
    played.writer.deliver()
    played.step()
    assert played.confirmed == 240


def test_a_delivered_part_of_a_transaction_confirms_only_what_is_complete_before_it(clock: Clock) -> None:
    played = Played(clock)
    begun = transaction(300, *[wire.insert(ORDERS, [str(number), "x"]) for number in range(5)])
    played.step(relation(), *insert(200), *begun[:4])
    played.writer.deliver()
    played.step()
    assert played.confirmed == 240


def test_a_keepalive_alone_confirms_nothing_it_becomes_a_mark_first(clock: Clock) -> None:
    played = Played(clock)
    played.step(wire.keepalive(900, reply_requested=True))
    assert links(played.writer.published) == [(899, 99, 1, True)]
    assert played.confirmed == 100
    played.writer.deliver()
    played.step()
    assert played.confirmed == 900


def test_without_a_request_a_mark_waits_for_two_heartbeats(clock: Clock) -> None:
    played = Played(clock)
    played.step(wire.keepalive(900), seconds=1.5)
    assert not played.writer.published
    played.step(seconds=0.6)
    assert links(played.writer.published) == [(899, 99, 1, True)]


def test_nothing_is_marked_while_records_or_a_transaction_are_pending(clock: Clock) -> None:
    played = Played(clock)
    played.step(relation(), *insert(200), wire.keepalive(900, reply_requested=True))
    played.step(seconds=5.0)
    assert len(links(played.writer.published)) == 1
    played.writer.deliver()
    played.step(insert(950)[0], wire.keepalive(990, reply_requested=True))
    assert len(links(played.writer.published)) == 1


def test_records_wait_for_later_ones_only_where_those_come_one_by_one(clock: Clock) -> None:
    """Where messages gather, the next ones come together, after all that the client would wait."""
    played = Played(clock)
    played.step(relation(), *insert(200))
    assert not played.writer.sent
    played.stream.fast = True
    played.step(*insert(300))
    assert played.writer.sent == played.writer.published


def test_the_server_hears_from_us_every_second_even_when_nothing_is_read(clock: Clock) -> None:
    played = Played(clock, max_in_flight_bytes=1)
    played.step(relation(), *insert(200))
    reads, statuses = played.stream.reads, len(played.stream.statuses)
    for _ in range(50):
        played.step(seconds=0.1)
    assert played.stream.reads == reads
    assert len(played.stream.statuses) - statuses >= 4


def test_pressure_ends_when_records_are_durable(clock: Clock) -> None:
    played = Played(clock, max_in_flight_bytes=1)
    played.step(relation(), *insert(200))
    played.step(*insert(300))
    assert len(links(played.writer.published)) == 1
    played.writer.deliver()
    played.step()
    assert len(links(played.writer.published)) == 2


def test_a_request_is_answered_at_once_but_not_in_a_storm(clock: Clock) -> None:
    played = Played(clock)
    for _ in range(100):
        played.step(wire.keepalive(100, reply_requested=True), seconds=0.01)
    assert 5 <= len(played.stream.statuses) <= 12


def test_a_leader_that_shuts_down_is_let_go_when_kafka_takes_nothing(clock: Clock) -> None:
    played = Played(clock)
    played.step(relation(), *insert(200))
    played.step(seconds=4.0)
    played.heartbeat_silence = 7.0
    with pytest.raises(RetryableError, match="neither"):
        played.step(seconds=4.0)


def test_kafka_alone_being_away_ends_nothing(clock: Clock) -> None:
    played = Played(clock)
    played.step(relation(), *insert(200))
    for _ in range(50):
        played.step(seconds=1.0)


def test_a_silent_leader_is_asked_and_one_that_answers_is_kept(clock: Clock) -> None:
    played = Played(clock)
    played.heartbeat_silence = 1000.0
    for _ in range(20):
        played.step(seconds=9.0)
        assert not played.stream.asked
        played.step(seconds=2.0)
        assert played.stream.asked
        played.step(wire.keepalive(100))


def test_a_leader_that_neither_answers_nor_takes_heartbeats_is_given_up(clock: Clock) -> None:
    played = Played(clock)
    played.heartbeat_silence = 30.0
    played.step(seconds=19.0)
    with pytest.raises(RetryableError, match="has not answered for 21 s"):
        played.step(seconds=2.0)


def test_a_leader_that_decodes_for_minutes_is_left_to_it_while_it_takes_heartbeats(clock: Clock) -> None:
    played = Played(clock)
    for _ in range(30):
        played.step(seconds=10.0)
    with pytest.raises(RetryableError, match="has not answered for 310 s"):
        played.step(seconds=10.0)


def test_a_leader_to_whom_nobody_listens_is_not_silent(clock: Clock) -> None:
    played = Played(clock, max_in_flight_bytes=1)
    played.heartbeat_silence = 4.0
    played.step(relation(), *insert(200))
    for _ in range(400):
        played.step(seconds=1.0)


def test_stopping_waits_for_what_was_published_and_confirms_it(clock: Clock) -> None:
    played = Played(clock)
    played.step(relation(), *insert(200))
    stop = StopToken()
    stop.set()
    played.session.run(stop)
    assert played.confirmed == 240


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("commit"), st.integers(0, 3)),
        st.tuples(st.just("begin"), st.integers(1, 4)),
        st.tuples(st.just("keepalive"), st.booleans()),
        st.tuples(st.just("deliver"), st.integers(1, 3)),
        st.tuples(st.just("wait"), st.integers(0, 30)),
    ),
    max_size=40,
)


def _end_of(durable: Sequence[Record]) -> int:
    """End of the newest complete transaction among durable records: what the slot may be confirmed to."""
    return max((event["cdc"].get("end_lsn", 0) for event in events(list(durable))), default=0)


def _play(actions: Sequence[tuple[str, int]], check: Callable[[Played], None], clock: Clock) -> None:
    played = Played(clock)
    played.step(relation())
    lsn, rest = 200, list[bytes]()
    for action, amount in actions:
        if action == "commit" and not rest:
            played.step(*transaction(lsn, *[wire.insert(ORDERS, ["1", "x"])] * amount))
            lsn += 100
        elif action == "begin" and not rest:
            frames = transaction(lsn, *[wire.insert(ORDERS, ["1", "x"])] * amount)
            played.step(*frames[:-1])
            rest, lsn = frames[-1:], lsn + 100
        elif action == "commit":
            played.step(*rest)
            rest = []
        elif action == "keepalive" and not rest:
            played.step(wire.keepalive(lsn - 20, bool(amount)))
        elif action == "deliver":
            played.writer.deliver(amount)
            played.step()
        else:
            played.step(seconds=amount / 10)
        check(played)


@given(ACTIONS)
def test_never_past_the_log_and_never_backwards(actions: list[tuple[str, int]]) -> None:
    confirmed = [0]

    def check(played: Played) -> None:
        assert played.confirmed <= max(100, _end_of(played.writer.durable))
        if played.stream.statuses:
            assert played.confirmed >= confirmed[-1]
            confirmed.append(played.confirmed)

    with pytest.MonkeyPatch.context() as patch:
        clock = Clock()
        patch.setattr(capture, "time", clock)
        _play(actions, check, clock)


def test_what_the_log_holds_is_not_confirmed_before_this_connection_was_sent_it(clock: Clock) -> None:
    """The server would let go of catalog rows and WAL that it still needs to decode what it is about to send."""
    played = Played(clock)
    assert TAIL.end_lsn == 100

    played.step(seconds=2.0)
    assert played.stream.statuses[-1] == (0, 0, 0)
    played.step(wire.keepalive(60), seconds=2.0)
    assert played.confirmed == 60
    played.step(wire.keepalive(100), seconds=2.0)
    assert played.confirmed == 100
