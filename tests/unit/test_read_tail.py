"""The log's end is found by reading backwards: whatever its writers left there, it is what reading all of it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc.log.envelope import Finisher
from cdc.log.tail import LogTail, TailScan
from connectors.kafka import consumer
from connectors.kafka.consumer import LogReader
from connectors.kafka.settings import common_settings
from tests.support import claims
from tests.support.claims import opened
from tests.support.replay import Record

US, EU, AP = "us-east", "eu-west", "ap-south"
LEADERS = {1: US, 2: EU, 3: AP}
BEGINNINGS = {1: 1000, 2: 4000, 3: 2000}
ALL = 2**40
STEPS = ["write", "stale", "promote", "lost claim", "runbook", "repeat", "part"]


def claim(epoch: int, leader: str, commit_lsn: int) -> bytes:
    return claims.claim(leader, epoch, commit_lsn, commit_lsn - 10)[1]


def marks(epoch: int, first: int, count: int) -> list[bytes]:
    return [value for _, value in claims.marks(LEADERS[epoch], epoch, first, count)]


def transaction(epoch: int, commit_lsn: int, events: int, *, whole: bool = True) -> list[bytes]:
    records = [
        opened(epoch, commit_lsn, commit_lsn - 10).message("p", b"x", commit_lsn, seq) for seq in range(1, events + 1)
    ]
    if whole:
        records[-1] = Finisher(LEADERS[epoch])(records[-1], commit_lsn + 1)
    return [value for _, value in records]


@st.composite
def logs(draw: st.DrawFn) -> list[bytes]:
    """Up to three leaders, one after the other. Who leads no more may still write, and others lose a claim; what was
    written may be repeated, and be incomplete."""
    values, written, epoch = [claim(1, US, BEGINNINGS[1])], [], 1
    next_lsn = {number: begins + 10 for number, begins in BEGINNINGS.items()}

    def write(writer: int, count: int) -> None:
        for _ in range(count):
            events = draw(st.integers(0, 3))
            written.append(
                transaction(writer, next_lsn[writer], events) if events else marks(writer, next_lsn[writer], 1)
            )
            values.extend(written[-1])
            next_lsn[writer] += 10

    for what in draw(
        st.lists(st.sampled_from(["write", "stale", "promote", "lost claim", "runbook", "repeat", "part"]))
    ):
        older = draw(st.integers(1, max(1, epoch - 1)))
        if what == "write":
            write(epoch, draw(st.integers(1, 6)))
        elif what == "stale":
            write(older, draw(st.integers(1, 9)))
        elif what == "promote" and epoch < max(LEADERS):
            epoch += 1
            values.append(claim(epoch, LEADERS[epoch], BEGINNINGS[epoch]))
        elif what == "lost claim" and epoch > 1:
            values.append(claim(epoch, "another", draw(st.integers(100, 900)) * 10 + 5))
        elif what == "runbook":
            values.append(opened(epoch, 1, 0).runbook({"step": "begin"})[1])
        elif what == "repeat" and written:
            first = draw(st.integers(0, len(written) - 1))
            values += [value for one in written[first : first + 8] for value in one]
        elif what == "part":
            values += transaction(older, next_lsn[older], 1, whole=False)
    return values


class InMemory(LogReader):
    """A reader of a log that is a list."""

    def __init__(self, values: list[bytes]) -> None:
        super().__init__(common_settings("127.0.0.1:1", "test", {}), "test.log")
        self._values = values

    def watermarks(self) -> tuple[int, int]:
        return 0, len(self._values)

    def _range(self, start: int, end: int, deadline: float, on_wait: Callable[[], None]) -> Iterator[Message]:
        return iter([Record(at, self._values[at]) for at in range(start, end)])  # type: ignore[misc]


def place(tail: LogTail) -> tuple[object, ...]:
    """All but where it was read: a repeat of the newest transaction is as good as its first record."""
    return tail.epoch, tail.leader, tail.commit_lsn, tail.end_lsn, tail.partial_commit_lsn, tail.partial_seq


@settings(max_examples=1000)
@given(values=logs())
def test_reading_backwards_finds_what_reading_all_finds(values: list[bytes]):
    everything = TailScan(len(values))
    everything.begin(whole=True)
    for offset, value in enumerate(values):
        everything.add(offset, value)
    with pytest.MonkeyPatch.context() as patch, InMemory(values) as reader:
        patch.setattr(consumer, "_TAIL_FIRST_STEP", 4)
        found, expected = reader.read_tail(depth_bytes=ALL), everything.tail()
    assert found is not None
    assert expected is not None
    assert place(found) == place(expected)


@pytest.mark.parametrize("stale", [498, 499, 500, 501])
@pytest.mark.parametrize("lost_claim", [False, True])
@pytest.mark.parametrize("own", [0, 5000])
def test_a_claim_counts_wherever_the_first_window_begins(stale: int, lost_claim: bool, own: int):
    values = [claim(1, US, 1000), *marks(1, 1010, 800), claim(2, EU, 4000)]
    values += marks(2, 4010, own)
    values += marks(1, 9010, stale)
    if lost_claim:
        values[-1] = claim(2, AP, 90_005)
    with InMemory(values) as reader:
        found = reader.read_tail(depth_bytes=ALL)
        known = reader.read_tail(back_to=len(values) - stale - 1)
    assert found is not None
    assert known is not None
    assert (found.epoch, found.leader, found.commit_lsn) == (2, EU, 4000 + 10 * own)
    assert (known.epoch, known.leader) == (2, EU)


def test_what_was_repeated_last_is_not_taken_for_the_end():
    values = [claim(1, US, 1000), *marks(1, 1010, 1000)]
    values += marks(1, 5010, 550)
    with InMemory(values) as reader:
        found = reader.read_tail(depth_bytes=ALL)
    assert found is not None
    assert found.commit_lsn == 11_000


def test_a_repeat_does_not_end_what_comes_after_the_one_it_repeats():
    whole = transaction(1, 1010, 3)
    values = [claim(1, US, 1000), *whole, *transaction(1, 1020, 1, whole=False), *whole]
    for step in (4, 500):
        with pytest.MonkeyPatch.context() as patch, InMemory(values) as reader:
            patch.setattr(consumer, "_TAIL_FIRST_STEP", step)
            found = reader.read_tail(depth_bytes=ALL)
        assert found is not None
        assert place(found) == (1, US, 1010, 1011, 1020, 1)
