"""Daemons that wait for their turn: a password that is changed meanwhile ends none of them, nor does a lost answer."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cdc.capture_ports import ChangeStream, LeaderDatabase, SlotFacts
from cdc.errors import FencedError, RefusedError, RetryableError
from cdc.protocol.lsn import Lsn
from cdc.services import apply, capture
from cdc.services.apply import ApplyService
from cdc.services.capture import CaptureService, CaptureSettings
from cdc.services.health import Health
from cdc.stop import StopToken

SETTINGS = CaptureSettings("g", "us", "t", "cdc_g", node="us")


class Rounds:
    """What is asked each round: some rounds go well, then a login is refused once."""

    def __init__(self, stop: StopToken, answer: object) -> None:
        self.count = 0
        self._stop = stop
        self._answer = answer

    def ask(self) -> object:
        self.count += 1
        if self.count == 5:
            raise RefusedError("login refused (28P01)")
        if self.count == 10:
            self._stop.set()
        return self._answer

    def open(self) -> object:
        return self.ask()

    def read_tail(self, *_: object, **__: object) -> object:
        return self.ask()

    def identity(self, _: str) -> None:
        return None

    def close(self) -> None:
        pass


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apply, "_LEADING_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(capture, "_STANDBY_SECONDS", 0.01)


@pytest.mark.usefixtures("quick")
def test_an_applier_of_the_leader_outlives_a_refused_login():
    stop, health = StopToken(), Health()
    target = Rounds(stop, None)
    ApplyService(cast(Any, lambda: SimpleNamespace(close=lambda: None)), cast(Any, target), "us", health=health).run(
        stop
    )
    assert (target.count, health.interruptions) == (10, 1)


@pytest.mark.usefixtures("quick")
def test_a_capture_that_stands_by_outlives_a_refused_login():
    stop, health = StopToken(), Health()
    tail = Rounds(stop, SimpleNamespace(leader="eu", epoch=1, next_offset=5))
    parts: list[Any] = [lambda _: tail, None, None, lambda: tail, None, health]
    CaptureService(SETTINGS, *parts).run(stop)
    assert (tail.count, health.interruptions) == (10, 1)


class Slot:
    """A replication slot that one session holds at a time; `heard_of` tells when the server heard of it, `confirmed`
    how far it is."""

    def __init__(
        self, heard_of: Callable[[], str | None] = lambda: None, confirmed: Callable[[], Lsn] = lambda: Lsn(1)
    ) -> None:
        self.holder: int | None = None
        self._heard_of = heard_of
        self._confirmed = confirmed

    def slot(self, _: str) -> SlotFacts:
        facts = ("pgoutput", "db", False, self.holder, "cdc capture", self._confirmed(), Lsn(1), "reserved", None)
        return SlotFacts(*facts, heard_of=self._heard_of() if self.holder else None)

    def stream(self, pid: int, answered: bool = True) -> ChangeStream:
        def start(*_: object) -> None:
            if self.holder is not None:
                raise FencedError("in use by another process (55006)")
            self.holder = pid
            if not answered:
                raise RetryableError("lost before the answer came")

        return cast(ChangeStream, SimpleNamespace(backend_pid=pid, start=start))


def service() -> CaptureService:
    parts: list[Any] = [None] * 5
    return CaptureService(SETTINGS, *parts)


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that were waited for, without waiting."""
    passed = [0.0]

    def wait(_: StopToken, seconds: float) -> bool:
        passed[0] += seconds
        return False

    monkeypatch.setattr(StopToken, "wait", wait)
    monkeypatch.setattr("cdc.services.capture.time.monotonic", lambda: passed[0])
    return passed


def acquire(service: CaptureService, slot: Slot, stream: ChangeStream) -> bool:
    return service._acquire(cast(LeaderDatabase, slot), stream, StopToken())


@pytest.mark.usefixtures("waited")
def test_a_slot_whose_answer_was_lost_is_not_taken_for_a_rivals():
    slot, capturing = Slot(heard_of=lambda: "then"), service()
    with pytest.raises(RetryableError, match="before the answer"):
        acquire(capturing, slot, slot.stream(101, answered=False))
    for pid in (102, 103):
        with pytest.raises(RetryableError, match="has not noticed yet"):
            acquire(capturing, slot, slot.stream(pid))
    slot.holder = None
    assert acquire(capturing, slot, slot.stream(104))
    # And a session of ours that never got it is nobody's afterwards.
    slot.holder = 103
    with pytest.raises(RetryableError, match=r"in use by cdc capture \(pid 103\)"):
        acquire(capturing, slot, slot.stream(105))


@pytest.mark.parametrize("sign", ["answers", "confirms"])
def test_a_rival_that_gives_signs_of_life_keeps_the_slot(waited: list[float], sign: str):
    slots = {"answers": Slot(heard_of=lambda: str(waited[0])), "confirms": Slot(confirmed=lambda: Lsn(int(waited[0])))}
    slot = slots[sign]
    slot.holder = 7
    with pytest.raises(FencedError, match=r"in use by cdc capture \(pid 7\).* stop the other one"):
        acquire(service(), slot, slot.stream(8))
    assert 5 <= waited[0] < 7


@pytest.mark.parametrize("sign", ["answered once more", "none"])
def test_one_that_gives_none_may_be_gone_and_is_waited_for_however_long_its_server_takes(
    waited: list[float], sign: str
):
    slot = {"answered once more": Slot(heard_of=lambda: str(waited[0] > 1)), "none": Slot()}[sign]
    slot.holder = 7
    for times in (1, 2):
        with pytest.raises(RetryableError, match=r"hears nothing.*pg_terminate_backend\(7\)"):
            acquire(service(), slot, slot.stream(8))
        assert 75 * times <= waited[0] < 77 * times


def test_one_that_is_given_up_in_time_leaves_the_slot(waited: list[float]):
    def heard_of() -> str:
        if waited[0] > 60:
            slot.holder = None
        return "then"

    slot = Slot(heard_of)
    slot.holder = 7
    assert acquire(service(), slot, slot.stream(8))
