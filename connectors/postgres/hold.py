"""A walsender that stands still for some milliseconds, because half a message has come.

A walsender that has sent everything is woken by each commit, sends its few messages, and sleeps again: beside a busy
leader most of what it costs. Between two records of WAL it looks whether its client says something, and of a message
that has begun it waits for the rest, and meanwhile for nothing else (`ProcessRepliesIfAny` in PostgreSQL's
walsender.c). So one that is given the first byte of a status update lets WAL come together until it gets the others,
and then decodes it as it does a backlog (ops/decisions/0020-half-a-message-holds-a-walsender.md).

It must not depend on us: one that waits so sees neither its timeouts nor its server's shutdown. The whole message is
with our kernel at once, and what is held back of it leaves after 200 ms though this process be stopped, or hang
(manual page tcp(7), TCP_CORK). A unix socket has nothing like that, so there nothing is held.
"""

from __future__ import annotations

import socket

CAN_HOLD = hasattr(socket, "TCP_CORK")
"""Linux can."""
_COPY_DATA = b"d"
_LENGTH_SIZE = 4
"""Which counts itself (manual, 54.7 "Message Formats")."""


class Hold:
    """Of the walsender at the other end of a TCP connection that is not encrypted. Not thread-safe."""

    def __init__(self, link: socket.socket) -> None:
        """`link` is used by others as well: what they send while this lasts leaves when it ends."""
        self._link = link
        self.lasts = False

    def begin(self, status: bytes) -> None:
        """With a status update, of which nothing else must be under way. Raises OSError when the connection is lost, or
        takes no more: it is of no use then."""
        message = _COPY_DATA + (_LENGTH_SIZE + len(status)).to_bytes(_LENGTH_SIZE, "big") + status
        self._send(message[:1])
        self._link.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        self.lasts = True
        self._send(message[1:])

    def end(self) -> None:
        """If it lasts; the kernel may have ended it already. Raises OSError as `begin` does."""
        if self.lasts:
            self.lasts = False
            self._link.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)

    def _send(self, piece: bytes) -> None:
        if self._link.send(piece) != len(piece):
            raise OSError("a piece of a message was sent in part")
