"""How a replication connection is read while its server sends fast.

A walsender hands each message to the socket by itself, which wakes the reader that waits there. At tens of thousands of
messages a second this costs both of them more than the messages do, and every stage after them gets batches as small:
nearly twice the CPU a row in the whole pipeline (ops/decisions/0016-messages-gather-where-they-come-fast.md). So a
reader who has taken everything lets some come together first, for a time that nobody notices at such a rate.

Where they come together depends on the way to the server. By the loopback device it is the server's end: its kernel
adds a message to those that wait there, while one that finds room at the reader's end is a packet, which costs as much
again. From another machine it is the reader's end, since what waits at the other is a round trip away.
"""

from __future__ import annotations

import select
import socket
import time

_MANY_A_SECOND = 5_000.0
_RATE_SECONDS = 0.1
"""Over which the rate is taken. Much shorter, a steady load near the limit is by turns fast and not."""
_GATHER_SECONDS = 0.02
_GATHER_BYTES = 64 * 1024
_ROOM_BYTES = 1024 * 1024
"""Of the socket's buffer, so that the server goes on while what is there is worked on."""
_LOOPBACK_ROOM_BYTES = 64 * 1024
"""As much as a packet of that device may have. With much less, a sender waits until there is more."""
_LARGEST_FRAME = 9_216
"""Of any other device."""


class Pace:
    """Of the reads of one connection. Not thread-safe."""

    def __init__(self, socket_number: int) -> None:
        self._socket = socket.fromfd(socket_number, socket.AF_UNSPEC, socket.SOCK_STREAM)
        self._poll = select.poll()
        self._poll.register(socket_number, select.POLLIN)
        self._since = self._read_at = time.monotonic()
        self._messages = 0
        self._fast = self._emptied = False
        self._loopback = _by_loopback(self._socket)
        if self._loopback:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _LOOPBACK_ROOM_BYTES)
        else:
            self._make_room()

    def gather(self) -> None:
        """Before a read: where messages come fast, and none are left, wait until much is there, some milliseconds at
        most."""
        if not self._fast or not self._emptied:
            return
        left = max(self._read_at + _GATHER_SECONDS - time.monotonic(), 0.0)
        if self._loopback:
            time.sleep(left)
            return
        self._wake_at(_GATHER_BYTES)
        self._poll.poll(left * 1000)
        self._wake_at(1)

    def ready(self, timeout: float) -> bool:
        """Whether there is something to read within so many seconds."""
        return bool(self._poll.poll(timeout * 1000))

    def note(self, messages: int, emptied: bool) -> None:
        """After a read: so many messages of data, and whether that was all there was."""
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
        self._wake_at(_ROOM_BYTES)
        self._wake_at(1)

    def _wake_at(self, size: int) -> None:
        """The kernel wakes who waits for the socket when so many bytes are there (a Unix socket: at any)."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)


def _by_loopback(link: socket.socket) -> bool:
    """By the size of its packets: an address of this machine may be forwarded to another one."""
    try:
        return link.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) > _LARGEST_FRAME
    except OSError:  # of a Unix socket
        return False
