"""Where messages come fast they are read many at a time; one that comes alone is not held back."""

from __future__ import annotations

import fcntl
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager, suppress
from statistics import median
from tempfile import TemporaryDirectory

import pytest

from connectors.postgres.pace import Pace

SENDER = """
import socket, struct, sys, time
if sys.argv[2].isdigit():
    link = socket.socket()
    if int(sys.argv[1]):
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, int(sys.argv[1]))
    link.connect(("127.0.0.1", int(sys.argv[2])))
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
else:
    link = socket.socket(socket.AF_UNIX)
    link.connect(sys.argv[2])
for phase in sys.argv[3:]:
    seconds, pause = map(float, phase.split(":"))
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if pause > 0.001:
            time.sleep(pause)
        sent = time.monotonic()
        link.sendall(struct.pack("dd84x", sent, time.time()))
        while pause <= 0.001 and time.monotonic() < sent + pause:
            pass
"""
"""A process of its own that sends messages of 100 bytes one by one, in phases: seconds, and the
pause before each."""
SIZE = 100
MOST = 2**18
"""Of one read."""
TIMEOUT = 5.0
LOOPBACK, ELSEWHERE, UNIX = 0, 1_400, -1
"""The most bytes that the sender puts into a packet; 0: as the device allows; -1: there are none."""
WAYS = pytest.mark.parametrize("packet", [LOOPBACK, ELSEWHERE, UNIX])
FAST, STEADY, SLOW, ALONE = "2.5:0.00002", "2.5:0.0001", "0.5:0.002", "0.001:0.8"


@contextmanager
def sender(packet: int, *phases: str) -> Iterator[socket.socket]:
    """The reader's end of its connection."""
    with (
        listening(packet) as (server, address),
        subprocess.Popen([sys.executable, "-c", SENDER, str(packet), address, *phases]),
        server.accept()[0] as reader,
    ):
        reader.setblocking(False)
        yield reader


@contextmanager
def listening(packet: int) -> Iterator[tuple[socket.socket, str]]:
    if packet == UNIX:
        with TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as server:
            server.bind(address := f"{folder}/socket")
            server.listen()
            yield server, address
    else:
        with socket.create_server(("127.0.0.1", 0)) as server:
            yield server, str(server.getsockname()[1])


def reads(reader: socket.socket) -> Generator[tuple[int, int, float], None, None]:
    """Of each read that found something, as a replication connection does it: how many messages, in how many calls, and
    for how many seconds the first of them had been on its way."""
    pace = Pace(reader.fileno())
    data = b""
    try:
        while True:
            calls = 0
            pace.gather()
            with suppress(BlockingIOError):
                while len(data) < MOST:
                    piece = reader.recv(2**14)
                    if not piece:
                        return
                    data += piece
                    calls += 1
            messages = len(data) // SIZE
            if messages:
                (sent_at,) = struct.unpack_from("8xd", data, (messages - 1) * SIZE)
                pace.note_commit(sent_at, sent_at)
            pace.note(messages, 0, len(data), emptied=len(data) < MOST)
            if messages:
                yield messages, calls, time.monotonic() - struct.unpack_from("d", data)[0]
            elif not pace.ready(TIMEOUT):
                return
            data = data[messages * SIZE :]
    finally:
        pace.close()


@pytest.mark.parametrize(
    ("packet", "phase", "many"), [(LOOPBACK, FAST, 5), (ELSEWHERE, FAST, 5), (UNIX, "2.5:0.00005", 3)]
)
def test_messages_that_come_fast_are_read_many_at_a_time(packet: int, phase: str, many: int):
    with sender(packet, phase) as reader:
        found = list(reads(reader))
    # Without it two or three, and by a Unix socket one; with it 15 and more, 9 where others take the sender's CPU.
    assert sum(messages for messages, *_ in found) > many * sum(calls for _, calls, _ in found)


@pytest.mark.parametrize(("packet", "most"), [(LOOPBACK, 0.075), (ELSEWHERE, 0.055), (UNIX, 0.075)])
def test_little_is_left_by_a_read_while_messages_come_fast(packet: int, most: float):
    """What is left is older by another 60 ms when it is read, from another machine 30, by a Unix socket 50. With 64 kB
    left it is 60 more at this rate, 1 MB a second."""
    with sender(packet, STEADY) as reader:
        found = list(reads(reader))
    assert median(late for *_, late in found[-50:]) < most


@pytest.mark.parametrize(("packet", "at_the_senders_end"), [(LOOPBACK, True), (ELSEWHERE, False)])
def test_by_the_loopback_device_most_waits_at_the_senders_end(packet: int, at_the_senders_end: bool):
    """Where its kernel makes one packet of many messages. A kernel enlarges the buffer of one who reads much."""
    with sender(packet, FAST) as reader, closing(reads(reader)) as found:
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            next(found)
        time.sleep(1.0)  # for which it is sent some MB
        waiting = struct.unpack("i", fcntl.ioctl(reader, termios.FIONREAD, bytes(4)))[0]
    assert (waiting < MOST) == at_the_senders_end


class Clock:
    """In the place of `time`."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return 1.8e9 + self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("connectors.postgres.pace.time", clock)
    return clock


def test_it_sleeps_for_what_is_left_of_its_time_where_all_was_read(clock: Clock):
    with sender(LOOPBACK, ALONE) as reader, closing(Pace(reader.fileno())) as pace:
        for emptied, worked in [(True, 0.005), (True, 0.07), (False, 0.005)]:
            clock.now += 0.2
            pace.note(10_000, 0, 10_000 * SIZE, emptied)
            clock.now += worked
            assert pace.gathers == (emptied and worked < 0.06)
            pace.gather()
    assert clock.slept == pytest.approx([0.055])


def test_where_much_comes_it_sleeps_until_a_megabyte_may_be_there(clock: Clock):
    """A server's end holds two and a half; then it stands still."""
    with sender(LOOPBACK, ALONE) as reader, closing(Pace(reader.fileno())) as pace:
        clock.now += 0.2
        pace.note(10_000, 0, 2**24, emptied=True)  # 80 MB a second
        pace.gather()
    assert clock.slept == pytest.approx([0.0125])


@pytest.mark.parametrize(
    ("committed", "sent", "enough"),
    [
        (-0.02, -0.01, True),
        (-0.04, -0.01, False),
        # By clocks that are not ours: a server's behind a proxy, and of one who committed it somewhere else.
        (-0.02, 0.01, False),
        (-0.01, -0.02, False),
        (3600.0, 3600.0, False),
        (-3600.0, -0.01, False),
    ],
)
def test_by_a_unix_socket_what_was_committed_just_now_is_left_to_the_server(
    clock: Clock, committed: float, sent: float, enough: bool
):
    """Who reads all of it has the server wait for the next commit. And who sleeps while more is left, or while it is
    not known how much, lets a backlog stand still: the buffer takes some 200 messages."""
    with by_unix_socket(clock) as pace:
        pace.note_commit(clock.time() + committed, clock.time() + sent)
        assert pace.enough == enough
        pace.note(200, 0, 200 * SIZE, emptied=False)
        assert pace.gathers == enough
        pace.gather()
    assert clock.slept == pytest.approx([0.05] * enough)


def test_by_a_unix_socket_all_is_read_until_a_transaction_has_ended(clock: Clock):
    with by_unix_socket(clock) as pace:
        assert not pace.enough
        pace.note_commit(clock.time(), clock.time())
        assert pace.enough
        clock.now += 0.035  # in the middle of a large one
        assert not pace.enough


def test_by_a_unix_socket_all_is_read_where_messages_come_slowly(clock: Clock):
    with by_unix_socket(clock) as pace:
        clock.now += 0.2
        pace.note(100, 0, 100 * SIZE, emptied=True)
        pace.note_commit(clock.time(), clock.time())
        assert not pace.enough


@contextmanager
def by_unix_socket(clock: Clock) -> Iterator[Pace]:
    """Where messages have come fast."""
    reader, writer = socket.socketpair()
    with reader, writer, closing(Pace(reader.fileno())) as pace:
        clock.now += 0.2
        pace.note(6_400, 0, 6_400 * SIZE, emptied=True)
        yield pace


@pytest.mark.parametrize("packet", [LOOPBACK, ELSEWHERE])
def test_by_tcp_all_is_read(clock: Clock, packet: int):
    """What is left would wait in the server's socket, and not keep it from sending more."""
    with sender(packet, ALONE) as reader, closing(Pace(reader.fileno())) as pace:
        clock.now += 0.2
        pace.note(6_400, 0, 6_400 * SIZE, emptied=True)
        pace.note_commit(clock.time(), clock.time())
        assert pace.gathers
        assert not pace.enough


@pytest.mark.parametrize(
    ("committed", "sent", "caught_up"),
    [
        (0.0, 0.001, True),
        (0.003, 0.004, True),
        # It was under way, or the server has not come to what was committed since.
        (-0.001, -0.001, False),
        (-0.001, 0.004, False),
        # By another clock, which tells nothing.
        (0.006, 0.007, False),
        (0.004, 0.003, False),
    ],
)
def test_a_server_has_caught_up_when_it_has_sent_what_was_committed_since(
    clock: Clock, committed: float, sent: float, caught_up: bool
):
    with sender(LOOPBACK, ALONE) as reader, closing(Pace(reader.fileno())) as pace:
        clock.now += 0.2
        pace.note(6_400, 0, 6_400 * SIZE, emptied=True)
        for lets_go in (False, True, True):
            if lets_go:
                clock.now += 0.06
                pace.let_go()
            since = clock.time()
            clock.now += 0.005
            assert not pace.has_caught_up
            pace.note_commit(since + committed, since + sent)
            assert pace.has_caught_up == caught_up
            pace.note(1_000, 0, 1_000 * SIZE, emptied=True)


def test_messages_gather_from_when_their_server_was_let_go(clock: Clock):
    with sender(LOOPBACK, ALONE) as reader, closing(Pace(reader.fileno())) as pace:
        clock.now += 0.2
        pace.note(6_400, 0, 6_400 * SIZE, emptied=True)
        for lets_go in (True, False):
            if lets_go:
                pace.let_go()
            clock.now += 0.01
            pace.note(100, 0, 100 * SIZE, emptied=True)
            pace.gather()
    assert clock.slept == pytest.approx([0.05, 0.06])


@pytest.mark.parametrize(
    ("packet", "encrypted", "messages"), [(UNIX, False, 6_400), (LOOPBACK, True, 6_400), (LOOPBACK, False, 100)]
)
def test_a_server_is_not_held_where_it_cannot_be_or_sends_slowly(
    clock: Clock, packet: int, encrypted: bool, messages: int
):
    with sender(packet, ALONE) as reader, closing(Pace(reader.fileno(), encrypted)) as pace:
        clock.now += 0.2
        pace.note(messages, 0, messages * SIZE, emptied=True)
        pace.note_commit(clock.time(), clock.time())
        assert not pace.has_caught_up


def test_a_steady_load_is_fast_though_it_stops_for_moments(clock: Clock):
    """6,000 messages a second from a leader whose clients wait for each other. By a clock of its own: how many come in
    a moment depends on the machine."""
    gathers = []
    with sender(LOOPBACK, ALONE) as reader, closing(Pace(reader.fileno())) as pace:
        for messages, seconds in [(100, 0.01), (100, 0.01), (0, 0.012)] * 60:
            clock.now += seconds
            pace.note(messages, 0, messages * SIZE, emptied=True)
            clock.slept.clear()
            pace.gather()
            gathers.append(bool(clock.slept))
    assert all(gathers[15:])


@WAYS
def test_messages_that_come_one_by_one_are_not_held_back(packet: int):
    with sender(packet, SLOW) as reader:
        found = list(reads(reader))
    assert median(messages for messages, *_ in found) == 1
    assert median(late for *_, late in found) < 0.01


@WAYS
def test_one_that_comes_after_many_is_not_held_back(packet: int):
    with sender(packet, *[FAST, ALONE, ALONE, FAST]) as reader:
        found = list(reads(reader))
    assert max(late for *_, late in found) < 0.5
