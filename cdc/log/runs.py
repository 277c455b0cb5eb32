"""HOT PATH: records that go on with the one before, recognised by their bytes (`ops/reference/event-format.md`).

Inside a transaction, records of one operation on one table differ in three places: where the change lies in the
WAL, its number, which stands there twice, and the row. All between is compared as bytes, and only rows are
parsed, many at once. A record that differs in anything else is not of the run: `cdc/log/records.py` reads it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from cdc.events.net_effect import Row

_LSN, _NUMBER, _SEQ = b'"lsn":', b'"total_order":', b'"seq":'
_BEFORE_ROW, _AFTER_ROW = b'},"before":null,"after":{', b'},"cdc":{'
_ZERO = ord("0")
"""JSON knows no number that begins with it, but for the number zero."""
_BETWEEN_ROWS = b"},\n{"
"""No string of JSON goes on over the end of a line, so that no row can reach into the next one."""
_ROWS_AT_ONCE_BYTES = 2**18
"""Of values, about; more at once is not faster, and takes memory."""


class Run:
    """What the records of one operation on one table have in common in one open transaction."""

    __slots__ = ("_end", "_head", "_middle", "commit_lsn", "fingerprint", "names", "op")

    def __init__(self, event: dict[str, Any], names: tuple[str, ...], head: bytes, middle: bytes, end: bytes) -> None:
        """`head` stands before the LSN, `middle` before the row and `end` after it, with %d where the number is."""
        self.op: str = event["op"]
        self.fingerprint: str = event["cdc"]["rel"]
        self.commit_lsn: int = event["cdc"]["commit_lsn"]
        self.names = names
        self._head, self._middle, self._end = head, middle, end

    @classmethod
    def of(cls, value: bytes, event: dict[str, Any], names: tuple[str, ...]) -> Run | None:
        """The run that an accepted change may begin: its record `value`, which holds `event`, and in it one row with
        the columns `names`. None when the bytes are not arranged as capture does it."""
        try:
            lsn = value.index(_LSN) + len(_LSN)
            after_lsn = value.index(b",", lsn)
            number = value.index(_NUMBER, after_lsn) + len(_NUMBER)
            after_number = value.index(_BEFORE_ROW, number)
            after_row = value.rindex(_AFTER_ROW)
            seq = value.index(_SEQ, after_row) + len(_SEQ)
            after_seq = value.index(b",", seq)
        except ValueError:
            return None
        middle = _with_number(value[after_lsn:number], value[after_number : after_number + len(_BEFORE_ROW)])
        run = cls(event, names, value[:lsn], middle, _with_number(value[after_row:seq], value[after_seq:]))
        return run if run._would_be(event) else None

    def _would_be(self, event: dict[str, Any]) -> bool:
        """Whether the three places are those of which JSON's rules make LSN, number and row."""
        try:
            other = orjson.loads(self._head + b"1" + self._middle % 0 + self._end % 0)
            source, transaction, cdc = other["source"], other["transaction"], other["cdc"]
            if (source["lsn"], transaction["total_order"], cdc["seq"], other["after"]) != (1, 0, 0, {}):
                return False
            source["lsn"], other["after"] = event["source"]["lsn"], event["after"]
            transaction["total_order"] = cdc["seq"] = event["cdc"]["seq"]
        except (KeyError, TypeError, ValueError):
            return False
        return bool(other == event)

    def rows(self, values: Iterable[bytes | None], seq: int) -> tuple[list[Row], int]:
        """The rows of the first `values` that go on with this run, numbered from `seq` on, and their values' size; of
        many, only some. None at all when one of them is not what it must be: who reads them one by one finds out which.
        """
        head, middle, end = self._head, self._middle, self._end
        after_head = len(head)
        texts = []
        size = 0
        for value in values:
            if value is None or not value.startswith(head):
                break
            before_row = middle % seq
            after_row = end % seq
            at = value.find(b",", after_head)
            if not (
                value.startswith(before_row, at)
                and value.endswith(after_row)
                and value[after_head:at].isdigit()
                and (value[after_head] != _ZERO or at == after_head + 1)
                and at + len(before_row) + len(after_row) <= len(value)
            ):
                break
            texts.append(value[at + len(before_row) : -len(after_row)])
            seq += 1
            size += len(value)
            if size > _ROWS_AT_ONCE_BYTES:
                break
        if not texts:
            return [], 0
        try:
            rows = orjson.loads(b"[{%b}]" % _BETWEEN_ROWS.join(texts))
        except orjson.JSONDecodeError:
            return [], 0
        if len(rows) != len(texts) or {*map(type, rows)} != {dict} or {*map(tuple, rows)} != {self.names}:
            return [], 0
        return rows, size


def _with_number(before: bytes, after: bytes) -> bytes:
    return b"%b%%d%b" % (before.replace(b"%", b"%%"), after.replace(b"%", b"%%"))
