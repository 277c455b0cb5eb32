"""Records that are too large for the broker: cut into `part` records, and joined again.

A part is a record of its own (`cdc.kind` = `part`, see ops/reference/event-format.md); the base64
contents of parts 1..n, joined, are the value of the record that was cut.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterator
from typing import Any

import orjson

from cdc.errors import LogError

Record = tuple[bytes | None, bytes]

_PART_OVERHEAD = 512
"""Bytes of a part beside key, content, source and transaction: its `cdc` object and the names."""


def split_record(record: Record, limit: int) -> Iterator[Record]:
    """The record itself when key and value have at most `limit` bytes, else its `part` records, in order.

    Raises LogError when `limit` leaves no room for content, or for the description of a relation.
    """
    key, value = record
    if len(value) + len(key or b"") <= limit:
        yield record
        return
    event = orjson.loads(value)
    common = {name: event[name] for name in ("source", "ts_ms", "transaction")}
    if "seq" not in event["cdc"]:
        raise LogError("the description of a relation is too large", "raise max.message.bytes of the topic")
    cdc = {name: event["cdc"][name] for name in ("epoch", "commit_lsn", "seq")}
    room = (limit - _PART_OVERHEAD - len(key or b"") - len(orjson.dumps(common))) // 4 * 3
    if room < 1:
        raise LogError(f"records of {limit} bytes are too small to hold parts", "raise max.message.bytes of the topic")
    parts = -(-len(value) // room)
    for number in range(1, parts + 1):
        content = b64encode(value[(number - 1) * room : number * room]).decode("ascii")
        part = {
            "op": "m",
            **common,
            "message": {"prefix": "cdc.part", "content": content},
            "cdc": {"kind": "part", **cdc, "part": number, "parts": parts, "bytes": len(value)},
        }
        yield key, orjson.dumps(part)


_WHO_WRITES = "find out who writes to the topic, and see cdc tail"
_MOST_PARTS = 2**24
_MOST_BYTES = 2 * 2**30
"""Of a joined record. The server sends a change of 1 GB at most, which JSON's escapes may double: whoever writes more
is no capture, and wants the reader's memory."""


class PartJoiner:
    """Joins parts in log order. Holds the bytes of one record at most, and no more than `most_bytes`."""

    def __init__(self, most_bytes: int = _MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._size = 0
        self._name: tuple[int, int, int] = (0, 0, 0)
        self._contents: list[bytes] = []
        self._cut: tuple[int, int | None, int] = (0, None, 0)
        """Of the parts that are held: how many there are, how many bytes they make, and how many are in the first."""
        self._joined = False

    @property
    def pending(self) -> bool:
        """Whether a record has begun that is not complete."""
        return bool(self._contents)

    def add(self, cdc: dict[str, Any], message_content: str) -> bytes | None:
        """The joined value when this was the last missing part, else None.

        Ignored: a repeated part, and a part of an older record than the newest seen. The first part of a
        newer record drops an unfinished one, whose publisher was interrupted; so does the first part of the same
        record by a publisher who cuts otherwise, and what the interrupted one had still on its way is ignored then.
        Raises LogError for a part out of order, a malformed one, and one too many.
        """
        try:
            name = (cdc["epoch"], cdc["commit_lsn"], cdc["seq"])
            part, parts, size = cdc["part"], cdc["parts"], cdc.get("bytes")
            content = b64decode(message_content, validate=True)
        except (KeyError, TypeError, ValueError) as error:
            raise _malformed() from error
        if not all(type(number) is int and number > 0 for number in (*name, part)):
            raise _malformed()
        if type(parts) is not int or not part <= parts <= _MOST_PARTS or type(size) not in (int, type(None)):
            raise _malformed()
        if name < self._name or (name == self._name and self._joined):
            return None
        if name > self._name or (part == 1 and (parts, size, len(content)) != self._cut):
            self._name, self._cut, self._contents, self._joined = name, (parts, size, len(content)), [], False
            self._size = 0
        place = len(self._contents) + 1
        if place > 1 and (part < place or not self._fits(part, parts, size, len(content))):
            return None
        if part > place:
            raise LogError(
                f"part {part} of {parts} of a record follows part {place - 1}",
                "records are missing from the log: bootstrap the follower again",
            )
        self._size += len(content)
        if self._size > self._most_bytes:
            self._contents = []
            raise LogError(f"a record in parts has more than {self._most_bytes} bytes", _WHO_WRITES)
        self._contents.append(content)
        if part < parts:
            return None
        value = b"".join(self._contents)
        self._contents, self._joined = [], True
        return value

    def _fits(self, part: int, parts: int, size: int | None, length: int) -> bool:
        """Whether it is of the cut of the first part, after which all are as long but the last one."""
        if (parts, size) != self._cut[:2]:
            return False
        first = self._cut[2]
        if part < parts:
            return length == first
        return size is None or length == size - first * (parts - 1)


def _malformed() -> LogError:
    return LogError("a part of a record is malformed", _WHO_WRITES)
