"""Frames of a replication connection: what CopyData carries (manual, 54.4 "Streaming Replication Protocol").

HOT PATH: a frame of WAL data stays the bytes that arrived. Its payload begins at `XLOG_HEADER_SIZE`,
and `xlog_start` reads the one field of its header that a row needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct

from cdc.errors import ProtocolError
from cdc.protocol.lsn import Lsn

XLOG_DATA = ord("w")
KEEPALIVE = ord("k")
XLOG_HEADER_SIZE = 25
"""Kind, start LSN, end LSN, time of sending."""

PG_EPOCH_US = 946_684_800_000_000
"""PostgreSQL counts microseconds from 2000-01-01, everybody else from 1970-01-01 (UTC)."""

_KEEPALIVE = Struct(">cQqB")
KEEPALIVE_SIZE = _KEEPALIVE.size
"""Less than the header of a frame of WAL data."""
_STATUS = Struct(">cQQQqB")
_XLOG_START = Struct(">xQ")
_XLOG_SENT_AT = Struct(">x16xq")


def xlog_start(frame: bytes) -> Lsn:
    """Where the change lies in the WAL; zero for messages that are not in it (Relation, Type)."""
    if len(frame) < XLOG_HEADER_SIZE:
        raise ProtocolError(f"a frame of WAL data has {len(frame)} bytes, its header needs {XLOG_HEADER_SIZE}")
    return Lsn(_XLOG_START.unpack_from(frame)[0])


def xlog_sent_at(frame: bytes) -> int:
    """When it left, by the leader's clock, in microseconds since 1970. The frame must have a header."""
    sent_at: int = _XLOG_SENT_AT.unpack_from(frame)[0]
    return sent_at + PG_EPOCH_US


@dataclass(frozen=True, slots=True)
class PrimaryKeepalive:
    """Everything before `end_lsn` has been sent. `sent_at_us` is the leader's clock, since 1970."""

    end_lsn: Lsn
    sent_at_us: int
    reply_requested: bool

    @classmethod
    def decode(cls, frame: bytes) -> PrimaryKeepalive:
        if len(frame) != KEEPALIVE_SIZE or frame[0] != KEEPALIVE:
            raise ProtocolError(f"a keepalive has {len(frame)} bytes, not {KEEPALIVE_SIZE}")
        _, end_lsn, sent_at, reply = _KEEPALIVE.unpack(frame)
        return cls(Lsn(end_lsn), sent_at + PG_EPOCH_US, reply != 0)


@dataclass(frozen=True, slots=True)
class StandbyStatusUpdate:
    """How far we are. Only `flushed` moves the slot; a zero LSN says nothing."""

    written: int
    flushed: int
    applied: int
    sent_at_us: int
    reply_requested: bool = False

    def encode(self) -> bytes:
        return _STATUS.pack(
            b"r", self.written, self.flushed, self.applied, self.sent_at_us - PG_EPOCH_US, self.reply_requested
        )
