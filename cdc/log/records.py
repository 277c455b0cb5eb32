"""HOT PATH: one record of the log, from bytes to what apply needs (`ops/reference/event-format.md`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from cdc.errors import LogError
from cdc.events.position import Position
from cdc.events.table import TableId, TableSchema
from cdc.protocol.lsn import Lsn

FORMAT = 1
"""The newest format of records that this version reads. A record of a newer one says so in `cdc.format`."""

_REMEDY = "find out who writes to the topic; nothing after this record is applied"


@dataclass(frozen=True, slots=True)
class Truncation:
    """One TRUNCATE statement of the leader with all its published tables."""

    tables: tuple[TableId, ...]
    cascade: bool
    restart_identity: bool


def parse(value: bytes | None, offset: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The event and its `cdc` object. Raises LogError when it is no event of ours, or of a newer version's."""
    try:
        event = orjson.loads(value or b"")
        meta = event["cdc"]
        if type(meta) is dict:
            if "format" in meta:
                _check_format(meta["format"], offset)
            return event, meta
    except (orjson.JSONDecodeError, KeyError, TypeError):
        pass
    raise foreign(offset, "it is not an event of this log")


def _check_format(number: object, offset: int) -> None:
    if type(number) is not int:
        raise foreign(offset, "its format is not a number")
    if number > FORMAT:
        raise LogError(
            f"the record has format {number}, written by a newer version; this one reads up to {FORMAT}",
            "install the version that wrote it; nothing from this record on is read",
            f"log offset {offset}",
        )


def foreign(offset: int, reason: str) -> LogError:
    """The error for a record that is not ours; `reason` must not quote its content."""
    return LogError(f"unknown record: {reason}", _REMEDY, f"log offset {offset}")


def position_after(event: dict[str, Any], meta: dict[str, Any], offset: int) -> Position:
    """The position that the final event of a transaction makes complete."""
    return Position(
        meta["epoch"],
        Lsn(meta["commit_lsn"]),
        Lsn(meta["end_lsn"]),
        int(event["source"]["ts_us"]),
        offset + 1,
        meta.get("leader", ""),
    )


def truncation(meta: dict[str, Any]) -> Truncation | None:
    """The statement that a `t` event ends; None on the events before the final one."""
    told = meta.get("truncate")
    if told is None:
        return None
    tables = tuple(TableId(str(schema), str(name)) for schema, name in told["tables"])
    return Truncation(tables, bool(told["cascade"]), bool(told["restart_identity"]))


def table_schema(meta: dict[str, Any]) -> TableSchema:
    """What a `schema` record describes. Raises ValueError when it does not have the name that it claims."""
    schema = TableSchema.from_json(meta["schema"])
    if schema.fingerprint != meta["rel"]:
        raise ValueError("the fingerprint does not fit the description")
    return schema
