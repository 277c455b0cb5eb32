"""pgoutput, protocol version 1 with logical messages: bytes to values (manual, 54.9).

HOT PATH: the functions for rows run once a change, those for begin and commit once a transaction. A row
becomes a plain dict of column names and texts, because that is what the encoder needs, and filling it while
reading costs nothing extra. A column whose TOASTed value was not sent is absent from it; NULL is None.

Every function takes the frame that holds the message and the position `at` which it begins. Whatever is
malformed or cut raises ProtocolError, which names the message and never quotes a value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from struct import Struct
from struct import error as StructError

from cdc.errors import NEW_GROUP, ProtocolError
from cdc.protocol.frames import PG_EPOCH_US, XLOG_HEADER_SIZE
from cdc.protocol.lsn import Lsn

BEGIN = ord("B")
COMMIT = ord("C")
ORIGIN = ord("O")
RELATION = ord("R")
TYPE = ord("Y")
INSERT = ord("I")
UPDATE = ord("U")
DELETE = ord("D")
TRUNCATE = ord("T")
MESSAGE = ord("M")
STREAM_ABORT = ord("A")

NEW_TUPLE = ord("N")
OLD_KEY = ord("K")
OLD_ROW = ord("O")
NO_OLD = 0

_TEXT = ord("t")
_NULL = ord("n")
_UNCHANGED = ord("u")

NOT_UTF8_REMEDY = (
    "no record can carry it, and the leader's WAL keeps it: make the rows UTF-8 (in a database of SQL_ASCII text is "
    f'anything, as a "char" is before PostgreSQL 16), {NEW_GROUP}'
)

Row = dict[str, str | None]
"""Values by column name in the relation's order; without the columns whose value was not sent."""

_uint16 = Struct(">H").unpack_from
_uint32 = Struct(">I").unpack_from
_uint64 = Struct(">Q").unpack_from
_int32 = Struct(">i").unpack_from
_row_head = Struct(">xQ16xxI").unpack_from
_begin = Struct(">BQqI").unpack
_commit = Struct(">BBQQq").unpack


@dataclass(frozen=True, slots=True)
class Origin:
    """The transaction was replayed from another node."""

    commit_lsn: Lsn
    name: str


@dataclass(frozen=True, slots=True)
class RelationColumn:
    name: str
    type_oid: int
    typmod: int
    key: bool


@dataclass(frozen=True, slots=True)
class Relation:
    """Sent before the first change of a relation and after each change of it, on each connection."""

    oid: int
    schema: str
    name: str
    identity: str
    columns: tuple[RelationColumn, ...]


@dataclass(frozen=True, slots=True)
class TypeName:
    """Sent before a relation that uses a type which is not built in. For a domain it names the base type."""

    oid: int
    schema: str
    name: str


@dataclass(frozen=True, slots=True)
class Truncate:
    relation_oids: tuple[int, ...]
    cascade: bool
    restart_identity: bool


@dataclass(frozen=True, slots=True)
class LogicalMessage:
    transactional: bool
    lsn: Lsn
    prefix: str
    content: bytes


@dataclass(frozen=True, slots=True)
class StreamAbort:
    """PostgreSQL 18 may send it although nothing is streamed to us; it says nothing then."""


Message = Origin | Relation | TypeName | Truncate | LogicalMessage | StreamAbort
"""Everything but rows and what frames a transaction."""


def decode(frame: bytes, at: int) -> Message:
    """Any message that is neither a row nor the begin or commit of a transaction."""
    try:
        kind = frame[at]
    except IndexError:
        raise _malformed(frame, at, "empty") from None
    reader = _READERS.get(kind)
    if reader is None:
        raise _malformed(frame, at, "unknown to protocol version 1")
    try:
        return reader(frame, at + 1)
    except (IndexError, StructError, UnicodeDecodeError, ValueError) as error:
        raise _malformed(frame, at, type(error).__name__) from None


def row_head(frame: bytes) -> tuple[int, int]:
    """(where the change lies in the WAL, OID of its relation) of a whole frame that holds a row."""
    try:
        lsn, oid = _row_head(frame)
    except StructError:
        raise _malformed(frame, XLOG_HEADER_SIZE, "no relation") from None
    return lsn, oid


def decode_begin(frame: bytes, at: int) -> tuple[int, int, int]:
    """(commit LSN, commit time in microseconds since 1970, xid). The commit LSN is where the commit record
    starts: the transaction's name."""
    try:
        _, commit_lsn, committed_at, xid = _begin(frame[at:])
    except StructError:
        raise _malformed(frame, at, "wrong length") from None
    return commit_lsn, committed_at + PG_EPOCH_US, xid


def decode_commit(frame: bytes, at: int) -> tuple[int, int, int]:
    """(commit LSN, end LSN, commit time in microseconds since 1970)."""
    try:
        _, _, commit_lsn, end_lsn, committed_at = _commit(frame[at:])
    except StructError:
        raise _malformed(frame, at, "wrong length") from None
    return commit_lsn, end_lsn, committed_at + PG_EPOCH_US


def decode_insert(frame: bytes, at: int, names: tuple[str, ...]) -> Row:
    """The new row of an INSERT into a relation with the columns `names`."""
    row, end = _read_row(frame, at + 5, names, at)
    if end != len(frame) or frame[at + 5] != NEW_TUPLE or len(row) != len(names):
        raise _bad_row(frame, at, end)
    return row


def decode_update(frame: bytes, at: int, names: tuple[str, ...]) -> tuple[int, Row | None, Row]:
    """What the old row is (NO_OLD, OLD_KEY, OLD_ROW), the old row, and the new row.

    OLD_KEY rows have None in every column that does not belong to the key.
    """
    start = at + 5
    kind, old = NO_OLD, None
    if frame[start : start + 1] != b"N":
        kind = _tuple_kind(frame, start, at)
        old, start = _read_row(frame, start, names, at)
        if len(old) != len(names):
            raise _bad_row(frame, at, start)
    row, end = _read_row(frame, start, names, at)
    if end != len(frame) or frame[start] != NEW_TUPLE:
        raise _bad_row(frame, at, end)
    return kind, old, row


def decode_delete(frame: bytes, at: int, names: tuple[str, ...]) -> tuple[int, Row]:
    """What the old row is (OLD_KEY or OLD_ROW), and the old row."""
    kind = _tuple_kind(frame, at + 5, at)
    row, end = _read_row(frame, at + 5, names, at)
    if end != len(frame) or len(row) != len(names):
        raise _bad_row(frame, at, end)
    return kind, row


def _bad_row(frame: bytes, at: int, end: int) -> ProtocolError:
    """A whole row lacks a value (only the new row of an UPDATE may), or is not where the message ends."""
    return _malformed(frame, at, f"its row lacks a value, or ends at byte {end} of {len(frame)}")


def _tuple_kind(frame: bytes, start: int, at: int) -> int:
    kind = frame[start] if start < len(frame) else 0
    if kind not in (OLD_KEY, OLD_ROW):
        raise _malformed(frame, at, "no old row where one is expected")
    return kind


def _read_row(frame: bytes, start: int, names: tuple[str, ...], at: int) -> tuple[Row, int]:
    """The row whose kind is at `start`, and the position after it. A cut row ends after the frame."""
    row: Row = {}
    try:
        if _uint16(frame, start + 1)[0] != len(names):
            raise _malformed(frame, at, f"{_uint16(frame, start + 1)[0]} columns, the relation has {len(names)}")
        pos = start + 3
        for name in names:
            kind = frame[pos]
            if kind == _TEXT:
                begin = pos + 5
                pos = begin + _uint32(frame, pos + 1)[0]
                row[name] = frame[begin:pos].decode()
            elif kind == _NULL:
                row[name] = None
                pos += 1
            elif kind == _UNCHANGED:
                pos += 1
            else:
                raise _malformed(frame, at, f"a column of unknown kind {kind}")
    except (IndexError, StructError):
        raise _malformed(frame, at, "its row is cut") from None
    except UnicodeDecodeError:
        raise ProtocolError(
            f"a {chr(frame[at])} message holds text that is not UTF-8",
            NOT_UTF8_REMEDY,
        ) from None
    return row, pos


def _read_origin(frame: bytes, at: int) -> Origin:
    name, _ = _read_text(frame, at + 8)
    return Origin(Lsn(_uint64(frame, at)[0]), name)


def _read_relation(frame: bytes, at: int) -> Relation:
    schema, pos = _read_text(frame, at + 4)
    name, pos = _read_text(frame, pos)
    identity = chr(frame[pos])
    if identity not in "dnfi":
        raise ValueError("unknown replica identity")
    columns = []
    count = _uint16(frame, pos + 1)[0]
    pos += 3
    for _ in range(count):
        flags = frame[pos]
        column, pos = _read_text(frame, pos + 1)
        columns.append(RelationColumn(column, _uint32(frame, pos)[0], _int32(frame, pos + 4)[0], flags & 1 == 1))
        pos += 8
    _expect_end(frame, pos)
    if len({column.name for column in columns}) != count:
        raise ValueError("two columns of one name")
    return Relation(_uint32(frame, at)[0], schema or "pg_catalog", name, identity, tuple(columns))


def _read_type(frame: bytes, at: int) -> TypeName:
    schema, pos = _read_text(frame, at + 4)
    name, pos = _read_text(frame, pos)
    _expect_end(frame, pos)
    return TypeName(_uint32(frame, at)[0], schema or "pg_catalog", name)


def _read_truncate(frame: bytes, at: int) -> Truncate:
    count = _uint32(frame, at)[0]
    options = frame[at + 4]
    _expect_end(frame, at + 5 + 4 * count)
    oids = tuple(_uint32(frame, at + 5 + 4 * index)[0] for index in range(count))
    return Truncate(oids, cascade=options & 1 != 0, restart_identity=options & 2 != 0)


def _read_message(frame: bytes, at: int) -> LogicalMessage:
    prefix, pos = _read_text(frame, at + 9)
    size = _uint32(frame, pos)[0]
    _expect_end(frame, pos + 4 + size)
    return LogicalMessage(frame[at] & 1 != 0, Lsn(_uint64(frame, at + 1)[0]), prefix, frame[pos + 4 :])


def _read_stream_abort(_frame: bytes, _at: int) -> StreamAbort:
    return StreamAbort()


def _read_text(frame: bytes, at: int) -> tuple[str, int]:
    end = frame.index(0, at)
    return frame[at:end].decode(), end + 1


def _expect_end(frame: bytes, pos: int) -> None:
    if pos != len(frame):
        raise ValueError("wrong length")


def _malformed(frame: bytes, at: int, reason: str) -> ProtocolError:
    kind = chr(frame[at]) if at < len(frame) else "none"
    return ProtocolError(
        f"a pgoutput message of kind {kind!r} with {max(0, len(frame) - at)} bytes cannot be read: {reason}",
        "check that the server is PostgreSQL 14 or newer, and that nothing changes the bytes on the way",
    )


_READERS: dict[int, Callable[[bytes, int], Message]] = {
    ORIGIN: _read_origin,
    RELATION: _read_relation,
    TYPE: _read_type,
    TRUNCATE: _read_truncate,
    MESSAGE: _read_message,
    STREAM_ABORT: _read_stream_abort,
}
