"""How a replication connection is read while its server sends fast.

A walsender hands each message to the socket by itself, which wakes the reader that waits there. At tens of thousands of
messages a second this costs both of them more than the messages do, and every stage after them gets batches as small:
nearly twice the CPU a row in the whole pipeline (ops/decisions/0016-messages-gather-where-they-come-fast.md). So a
reader who has taken everything lets some come together first, for a time that nobody notices at such a rate.

Where they come together depends on the way to the server. Within one machine that is the server's end: its kernel adds
a message to those that wait there, while one that finds room at the reader's end is a packet, which costs as much
again. From another machine it is the reader's end, since what waits at the other is a round trip away.
"""

from __future__ import annotations

import os
import select
import socket
import time

_MANY_A_SECOND = 5_000.0
_RATE_SECONDS = 0.1
"""Over which the rate is taken. Much shorter, a steady load near the limit is by turns fast and not."""
_GATHER_SECONDS = 0.02
_NEAR_LEAST_BYTES, _FAR_LEAST_BYTES = 8 * 1024, 64 * 1024
"""What is worth a read of its own while messages come fast."""
_NEAR_ROOM_BYTES, _FAR_ROOM_BYTES = 64 * 1024, 1024 * 1024
"""Of the socket's buffer: little, so that most waits at the server's end (with less than the loopback device's largest
packet, 64 kB, a sender may wait for more); or much, so that the server goes on while what is there is worked on."""


class Pace:
    """Of the reads of one connection. Not thread-safe."""

    def __init__(self, socket_number: int) -> None:
        self._socket = socket.socket(fileno=os.dup(socket_number))
        self._poll = select.poll()
        self._poll.register(socket_number, select.POLLIN)
        self._since = self._read_at = time.monotonic()
        self._messages = 0
        self._fast = self._emptied = self._gathers = False
        self._near = _within_one_machine(self._socket)
        if self._near:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _NEAR_ROOM_BYTES)
        else:
            self._make_room()

    def gather(self) -> bool:
        """Before a read: where messages come fast, and none are left, wait until much is there, some milliseconds at
        most. Whether they come fast."""
        if not self._fast:
            return False
        left = max(self._read_at + _GATHER_SECONDS - time.monotonic(), 0.0) if self._emptied else 0.0
        self._gathers = True
        if self._near:
            time.sleep(left)
            self._wake_at(_NEAR_LEAST_BYTES)
        else:
            self._wake_at(_FAR_LEAST_BYTES)
            self._poll.poll(left * 1000)
        return True

    def ready(self, timeout: float) -> bool:
        """Whether there is something to read within so many seconds. With none, little is nothing while it gathers:
        what comes during a read would be read piece by piece."""
        if self._gathers and timeout > 0:
            self._gather_no_more()
        return bool(self._poll.poll(timeout * 1000))

    def note(self, messages: int, emptied: bool) -> None:
        """After a read: so many messages of data, and whether that was all there was."""
        if self._gathers:
            self._gather_no_more()
        self._emptied = emptied
        self._messages += messages
        now = self._read_at = time.monotonic()
        if now - self._since >= _RATE_SECONDS:
            self._fast = self._messages > _MANY_A_SECOND * (now - self._since)
            self._since, self._messages = now, 0

    def close(self) -> None:
        self._socket.close()

    def _make_room(self) -> None:
        """A low-water mark enlarges the buffer for itself, for good, and the kernel still enlarges it as it sees fit
        (who sets SO_RCVBUF takes that away)."""
        self._wake_at(_FAR_ROOM_BYTES)
        self._wake_at(1)

    def _gather_no_more(self) -> None:
        self._gathers = False
        self._wake_at(1)

    def _wake_at(self, size: int) -> None:
        """The kernel wakes who waits for the socket when so many bytes are there (a Unix socket: at any)."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)


def _within_one_machine(link: socket.socket) -> bool:
    """By TCP: a Unix socket holds some 300 messages, after which the server stands still."""
    try:
        return link.family != socket.AF_UNIX and link.getpeername()[0] == link.getsockname()[0]
    except OSError:  # the connection has ended, which its first use tells
        return False
