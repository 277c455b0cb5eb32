"""How records of changes look that `ChangeReader` may take for granted; learned from one that was read the long way."""

from __future__ import annotations

from typing import Any

import orjson

_LSN = b',"lsn":'
_NUMBERS = b'1,"ts_ms":2,"ts_us":3,"txId":4},"ts_ms":5,"transaction":{"id":"6:7","total_order":8},'
_NEW_ROW, _OLD_ROW = b'"before":null,"after":{},', b'"before":{},"after":null,'
_CHAIN = b'"cdc":{"epoch":9,"commit_lsn":10,"prev":11,"seq":12,"rel":%b}}'


def head_of(value: bytes) -> bytes:
    """What stands before the LSN; nothing when there is none."""
    return value[: value.find(_LSN) + len(_LSN)] if _LSN in value else b""


def has_usual_form(value: bytes, event: dict[str, Any]) -> bool:
    """Whether what begins as `value` does up to its LSN, and goes on as capture writes changes, is by JSON's rules the
    `event` of `value` with other numbers and another row."""
    rel = event["cdc"]["rel"]
    rows = _OLD_ROW if event["op"] == "d" else _NEW_ROW
    try:
        other = orjson.loads(head_of(value) + _NUMBERS + rows + _CHAIN % orjson.dumps(rel))
        source = {**event["source"], "lsn": 1, "ts_ms": 2, "ts_us": 3, "txId": 4}
    except (KeyError, TypeError, ValueError):
        return False
    return bool(
        other
        == {
            **event,
            "source": source,
            "ts_ms": 5,
            "transaction": {"id": "6:7", "total_order": 8},
            "before": {} if event["op"] == "d" else None,
            "after": None if event["op"] == "d" else {},
            "cdc": {"epoch": 9, "commit_lsn": 10, "prev": 11, "seq": 12, "rel": rel},
        }
    )
