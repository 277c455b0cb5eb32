"""Encodes what a walsender sends: frames of CopyData, and pgoutput messages inside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from struct import pack

from cdc.protocol.frames import PG_EPOCH_US

UNCHANGED = object()
"""A TOASTed value that was not sent."""

Cell = str | None | object


def xlog(message: bytes, lsn: int = 0, sent_at_us: int = PG_EPOCH_US) -> bytes:
    """`message` as WAL data that lies at `lsn`."""
    return pack(">cQQq", b"w", lsn, lsn, sent_at_us - PG_EPOCH_US) + message


def keepalive(end_lsn: int, reply_requested: bool = False, sent_at_us: int = PG_EPOCH_US) -> bytes:
    return pack(">cQqB", b"k", end_lsn, sent_at_us - PG_EPOCH_US, reply_requested)


def begin(commit_lsn: int, committed_at_us: int = PG_EPOCH_US, xid: int = 7) -> bytes:
    return pack(">cQqI", b"B", commit_lsn, committed_at_us - PG_EPOCH_US, xid)


def commit(commit_lsn: int, end_lsn: int, committed_at_us: int = PG_EPOCH_US) -> bytes:
    return pack(">cBQQq", b"C", 0, commit_lsn, end_lsn, committed_at_us - PG_EPOCH_US)


def origin(commit_lsn: int, name: str) -> bytes:
    return pack(">cQ", b"O", commit_lsn) + _text(name)


def relation(oid: int, schema: str, name: str, identity: str, columns: Sequence[tuple[str, int, int, bool]]) -> bytes:
    """`columns`: name, type OID, typmod, whether it belongs to the identity."""
    head = pack(">cI", b"R", oid) + _text(schema) + _text(name) + identity.encode() + pack(">H", len(columns))
    return head + b"".join(pack(">B", key) + _text(n) + pack(">Ii", t, mod) for n, t, mod, key in columns)


def type_name(oid: int, schema: str, name: str) -> bytes:
    return pack(">cI", b"Y", oid) + _text(schema) + _text(name)


def insert(oid: int, new: Sequence[Cell]) -> bytes:
    return pack(">cI", b"I", oid) + _row(b"N", new)


def update(
    oid: int, new: Sequence[Cell], key: Sequence[Cell] | None = None, old: Sequence[Cell] | None = None
) -> bytes:
    before = _row(b"K", key) if key is not None else _row(b"O", old) if old is not None else b""
    return pack(">cI", b"U", oid) + before + _row(b"N", new)


def delete(oid: int, key: Sequence[Cell] | None = None, old: Sequence[Cell] | None = None) -> bytes:
    return pack(">cI", b"D", oid) + (_row(b"K", key) if key is not None else _row(b"O", old or ()))


def truncate(oids: Sequence[int], cascade: bool = False, restart_identity: bool = False) -> bytes:
    options = cascade | restart_identity << 1
    return pack(">cIB", b"T", len(oids), options) + b"".join(pack(">I", oid) for oid in oids)


def message(lsn: int, prefix: str, content: bytes, transactional: bool = True) -> bytes:
    return pack(">cBQ", b"M", transactional, lsn) + _text(prefix) + pack(">I", len(content)) + content


def row_of(values: Mapping[str, Cell]) -> dict[str, str | None]:
    """What the decoder makes of a row: without the values that were not sent."""
    return {name: value for name, value in values.items() if value is None or isinstance(value, str)}


def _row(kind: bytes, cells: Sequence[Cell]) -> bytes:
    return kind + pack(">H", len(cells)) + b"".join(map(_cell, cells))


def _cell(cell: Cell) -> bytes:
    if cell is None:
        return b"n"
    if cell is UNCHANGED:
        return b"u"
    value = str(cell).encode()
    return b"t" + pack(">I", len(value)) + value


def _text(text: str) -> bytes:
    return text.encode() + b"\0"
