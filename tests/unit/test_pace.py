"""Where messages come fast they are read many at a time; one that comes alone is not held back."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

from connectors.postgres.pace import Pace

SENDER = """
import socket, struct, sys, time
link = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
for phase in sys.argv[2:]:
    seconds, pause = map(float, phase.split(":"))
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        link.sendall(struct.pack("d92x", time.monotonic()))
        if pause:
            time.sleep(pause)
"""
"""A process of its own that sends messages of 100 bytes one by one, in phases: seconds, and the pause after each."""
SIZE = 100
TIMEOUT = 5.0
FAST, SLOW, ALONE = "0.5:0", "0.5:0.002", "0.001:0.1"


@contextmanager
def sender(*phases: str) -> Iterator[socket.socket]:
    """The reader's end of its connection."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        subprocess.Popen([sys.executable, "-c", SENDER, str(server.getsockname()[1]), *phases]),
        server.accept()[0] as reader,
    ):
        reader.setblocking(False)
        yield reader


def reads(reader: socket.socket) -> Iterator[tuple[int, float]]:
    """Of each read, as a replication connection does it: how many bytes, and for how many seconds the last message in
    them had been there."""
    pace = Pace(reader.fileno())
    try:
        while True:
            deadline = time.monotonic() + TIMEOUT
            pace.gather()
            data = b""
            while pace.ready(0 if data else max(0.0, deadline - time.monotonic())):
                piece = reader.recv(2**20)
                if not piece:
                    return
                data += piece
            pace.note(len(data) // SIZE, emptied=True)
            sent = struct.unpack_from("d", data, len(data) // SIZE * SIZE - SIZE)[0] if len(data) % SIZE == 0 else 0.0
            yield len(data), time.monotonic() - sent
    finally:
        pace.close()


def test_messages_that_come_fast_are_read_many_at_a_time():
    with sender(FAST) as reader:
        sizes = [size for size, _ in reads(reader)]
    assert median(sizes[len(sizes) // 2 :]) > 100 * SIZE


def test_messages_that_come_one_by_one_are_not_held_back():
    with sender(SLOW) as reader:
        found = list(reads(reader))
    assert median(size for size, _ in found) == SIZE
    assert median(late for _, late in found) < 0.005


def test_one_that_comes_after_many_is_not_held_back():
    with sender(*[FAST, ALONE] * 3) as reader:
        found = list(reads(reader))
    alone = [late for size, late in found if size == SIZE]
    assert len(alone) >= 3
    assert max(alone) < TIMEOUT / 5
