"""How a replication connection is read while its server sends fast.

A walsender hands each message to the socket by itself, which wakes the reader that waits there. At tens of thousands of
messages a second this costs both of them more than the messages do, and every stage after them gets batches as small:
nearly twice the CPU a row in the whole pipeline (ops/decisions/0016-messages-gather-where-they-come-fast.md). So a
reader who has taken everything lets some come together first, for a time that nobody notices at such a rate.

Where they come together depends on the way to the server. By the loopback device it is the leader's WAL: a server that
has sent everything is made to stand still for a while (`hold.py`). What it sends then comes together at its end: its
kernel adds a message to those that wait there, while one that finds room at the reader's end is a packet, which costs
as much again. From another machine it is the reader's end, since what waits at the other is a round trip away. By a
Unix socket it is the WAL, too: a server that finds its little buffer full stands still, and a commit that wakes it
makes it send nothing. So there the reader takes what was committed some time ago, and leaves the rest.
"""

from __future__ import annotations

import os
import select
import socket
import time

from connectors.postgres.hold import CAN_HOLD, Hold

_MANY_A_SECOND = 5_000.0
_RATE_SECONDS = 0.1
"""Over which the rate is taken. Much shorter, a steady load near the limit is by turns fast and not."""
_GATHER_SECONDS = 0.03
_HELD_SECONDS = 0.06
"""Of a server that is made to stand still, since it was let go the last time (ops/decisions/0020-*.md)."""
_UNIX_GATHER_SECONDS = 0.05
"""By a Unix socket, which is for leaders that are to lose little (ops/decisions/0016-*.md)."""
_ENOUGH_BYTES = 1024 * 1024
"""Of what gathers, at the rate of the last time: less than what a server's end holds, after which it stands still."""
_WAKE_BYTES = 64 * 1024
_ROOM_BYTES = 1024 * 1024
"""Of the socket's buffer, so that the server goes on while what is there is worked on."""
_LOOPBACK_ROOM_BYTES = 64 * 1024
"""As much as a packet of that device may have. With much less, a sender waits until there is more."""
_LARGEST_FRAME = 9_216
"""Of any other device."""
_CATCH_UP_SECONDS = 0.03
_LOOK_SECONDS = 0.002
"""A server that was let go sends what has come together, within the former; whoever waits for it at its socket is woken
by each message."""
_LEFT_SECONDS = 0.03
"""By a Unix socket, of what the server has to send: at 5,000 messages a second 150, which its buffer takes."""


class Pace:
    """Of the reads of one connection. Not thread-safe."""

    def __init__(self, socket_number: int, encrypted: bool = False) -> None:
        self._socket = socket.socket(fileno=os.dup(socket_number))
        self._poll = select.poll()
        self._poll.register(socket_number, select.POLLIN)
        self._since = self._gathers_from = time.monotonic()
        self._messages = self._bytes = 0
        self._committed_at = self._sent_at = 0.0
        self._fast = self._rest_may_wait = False
        self.by_unix = self._socket.family == socket.AF_UNIX
        self._by_loopback = not self.by_unix and _is_loopback(self._socket)
        self._hold = Hold(self._socket) if CAN_HOLD and self._by_loopback and not encrypted else None
        self.needs_commits = self.by_unix or self._hold is not None
        """Whether `note_commit` is to be called."""
        if self.by_unix:
            self._longest_seconds = _UNIX_GATHER_SECONDS
        else:
            self._longest_seconds = _GATHER_SECONDS if self._hold is None else _HELD_SECONDS
        self._gather_seconds = self._longest_seconds
        self._looks_until = 0.0  # of a read in which the server was let go; 0 in others
        self._looks_from = 0.0
        if self._by_loopback:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _LOOPBACK_ROOM_BYTES)
        elif not self.by_unix:
            self._make_room()

    def gather(self) -> None:
        """Before a read: where messages come fast, and none need to be taken now, wait until much is there, some
        milliseconds at most."""
        left = self._seconds_left()
        if not left:
            return
        if self.by_unix or self._by_loopback:
            time.sleep(left)
            return
        self._wake_at(_WAKE_BYTES)
        self._poll.poll(left * 1000)
        self._wake_at(1)

    @property
    def gathers(self) -> bool:
        """Whether a read that begins now waits, until some have come together."""
        return self._seconds_left() > 0

    def _seconds_left(self) -> float:
        now = time.monotonic()
        if not self._fast or not self._rest_may_wait:
            return 0.0
        return max(self._gathers_from + self._gather_seconds - now, 0.0)

    @property
    def holds(self) -> bool:
        """Whether the server stands still, and is to be let go before it can send more."""
        return self._hold is not None and self._hold.lasts

    def let_go(self) -> None:
        """The server may send again. Call it when what it had sent before was read."""
        self._gathers_from = time.monotonic()
        self._looks_until = self._gathers_from + _CATCH_UP_SECONDS
        self._looks_from = time.time()
        if self._hold is not None:
            self._hold.end()

    @property
    def has_caught_up(self) -> bool:
        """Whether the server may be made to stand still: all was read that had been committed when it was let go, or
        where it was not, at the end of the last read, since something was that was committed later."""
        return self._hold is not None and self._fast and self._was_committed_since(self._looks_from)

    def hold(self, status: bytes) -> None:
        """Make a server that has caught up stand still, with a status update for it, until the next read; 200 ms if
        none comes. Raises OSError when the connection is lost."""
        if self._hold is not None:
            self._hold.begin(status)

    def comes(self, timeout: float) -> bool:
        """Whether to look for more, after at most so many seconds, or where the server was let go after two
        milliseconds."""
        if time.monotonic() < self._looks_until:
            time.sleep(_LOOK_SECONDS)
            return True
        return self.ready(timeout)

    def ready(self, timeout: float) -> bool:
        """Whether there is something to read within so many seconds."""
        return bool(self._poll.poll(timeout * 1000))

    def note_commit(self, committed_at: float, sent_at: float) -> None:
        """Of the newest transaction that was read: when it was committed, and when the server sent that, in seconds
        since 1970 by the clocks of who did it."""
        self._committed_at, self._sent_at = committed_at, sent_at

    @property
    def enough(self) -> bool:
        """Whether what was read may do for now, though there be more: by a Unix socket, where the rest keeps the server
        from sending, and is little."""
        return self.by_unix and self._fast and self._was_committed_since(time.time() - _LEFT_SECONDS)

    def _was_committed_since(self, moment: float) -> bool:
        """Whether the newest transaction that was read was, as far as clocks tell. Where they are not the same one -
        between us and the server is a proxy, or the transaction is another leader's, or a clock was set back - they
        tell nothing, and it was not."""
        return moment <= self._committed_at <= self._sent_at <= time.time()

    def note(self, messages: int, keepalives: int, size: int, emptied: bool) -> None:
        """After a read: so many messages, of which so many hold no data, and bytes; and whether that was all there
        was, which by a Unix socket says nothing."""
        self._rest_may_wait = self.enough if self.by_unix else emptied
        self._messages += messages - keepalives
        self._bytes += size
        now = time.monotonic()
        if not self._looks_until:
            self._gathers_from = now
        self._looks_until = 0.0
        self._looks_from = time.time()
        seconds = now - self._since
        if seconds >= _RATE_SECONDS:
            self._fast = self._messages > _MANY_A_SECOND * seconds
            self._gather_seconds = min(self._longest_seconds, _ENOUGH_BYTES * seconds / max(self._bytes, 1))
            self._since, self._messages, self._bytes = now, 0, 0

    def close(self) -> None:
        self._socket.close()

    def _make_room(self) -> None:
        """A low-water mark enlarges the buffer for itself, for good, and the kernel still enlarges it as it sees fit
        (who sets SO_RCVBUF takes that away)."""
        self._wake_at(_ROOM_BYTES)
        self._wake_at(1)

    def _wake_at(self, size: int) -> None:
        """The kernel wakes who waits for the socket when so many bytes are there."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)


def _is_loopback(link: socket.socket) -> bool:
    """By the size of its packets: an address of this machine may be forwarded to another one."""
    return link.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) > _LARGEST_FRAME
