"""A leader's stream in miniature: transactions as frames, and what the assembler makes of them."""

from __future__ import annotations

from typing import Any

import orjson

from cdc.events.assembler import Assembler, Resume
from cdc.log.envelope import Envelope, finished
from cdc.protocol.lsn import Lsn
from tests.support import wire

ORDERS = 16400
NOTES = 16401
TYPES = {20: "pg_catalog.int8", 25: "pg_catalog.text"}
ORDERS_COLUMNS = [("id", 20, -1, True), ("note", 25, -1, False)]
NOW_US = 1_790_000_000_200_000
COMMITTED_US = 1_790_000_000_123_456
NOTHING = Resume(Lsn(99), Lsn(100), Lsn(0), 0)
"""A log that holds everything up to LSN 100."""


def relation(oid: int = ORDERS, name: str = "orders", identity: str = "d", note: str = "note") -> bytes:
    columns = [("id", 20, -1, True), (note, 25, -1, identity == "f")]
    return wire.xlog(wire.relation(oid, "public", name, identity, columns))


def transaction(commit_lsn: int, *messages: bytes, xid: int = 771) -> list[bytes]:
    """Frames from begin to commit; the end LSN is 40 after the commit LSN."""
    inner = [wire.xlog(message, commit_lsn - 50) for message in messages]
    begin = wire.xlog(wire.begin(commit_lsn, COMMITTED_US, xid), commit_lsn)
    return [begin, *inner, wire.xlog(wire.commit(commit_lsn, commit_lsn + 40, COMMITTED_US), commit_lsn)]


def assembler(resume: Resume = NOTHING, epoch: int = 1) -> Assembler:
    return Assembler(Envelope("shop", "shopdb", "0.1.0", epoch), finished, TYPES, resume, lambda: NOW_US)


def events(records: list[tuple[bytes | None, bytes]]) -> list[dict[str, Any]]:
    return [orjson.loads(value) for _, value in records]


def links(records: list[tuple[bytes | None, bytes]]) -> list[tuple[int, int, int, bool]]:
    """(commit_lsn, prev, seq, last) of the numbered records."""
    cdcs = [event["cdc"] for event in events(records)]
    return [(c["commit_lsn"], c["prev"], c["seq"], c.get("last", False)) for c in cdcs if "seq" in c]
