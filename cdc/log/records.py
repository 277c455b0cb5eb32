"""HOT PATH: one record of the log, from bytes to what apply needs (`ops/reference/event-format.md`).

Whoever may write to the topic can put anything there. What is read is therefore checked, here and once; a
record that is not what capture writes stops the reader, and is never quoted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import orjson

from cdc.errors import LogError
from cdc.events.position import Position
from cdc.events.table import TableId, TableSchema, is_publishable
from cdc.protocol.lsn import Lsn

FORMAT = 1
"""The newest format of records that this version reads. A record of a newer one says so in `cdc.format`."""

_REMEDY = "find out who writes to the topic; nothing after this record is applied"
_PLACE = re.compile(rb'"cdc":{(?:"kind":"([a-z]+)",)?"epoch":(\d{1,18}),"commit_lsn":(\d{1,19}),')
_KINDS = frozenset(("epoch", "mark", "schema", "runbook", "part"))
UNNUMBERED = frozenset(("schema", "runbook"))
_GREATEST_EPOCH = 2**63 - 1
_GREATEST_TIME_US = 253_402_300_799_999_999
"""The end of the year 9999; what is later is no time of PostgreSQL's clock."""


class MalformedError(ValueError):
    """What is wrong with a record, in words that quote nothing of it."""


@dataclass(frozen=True, slots=True)
class Truncation:
    """One TRUNCATE statement of the leader with all its published tables, or with those that are to be emptied here:
    then it `spares_others`, also those that refer to them."""

    tables: tuple[TableId, ...]
    cascade: bool
    restart_identity: bool
    spares_others: bool = False


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


def place_of(value: bytes, offset: int) -> tuple[str | None, int, int]:
    """Kind, epoch and commit LSN of a record, from its bytes as far as they are written as capture does it.

    Raises LogError when it is no event of ours, or of a newer version's.
    """
    found = _PLACE.match(value, max(0, value.rfind(b'"cdc":{')))  # no string holds a quote by itself
    if found is not None:
        kind = found[1]
        return kind.decode() if kind else None, int(found[2]), int(found[3])
    event, meta = parse(value, offset)
    try:
        kind_of(event, meta)
        return meta.get("kind"), int(meta["epoch"]), int(meta["commit_lsn"])
    except (KeyError, TypeError, ValueError) as error:
        raise unfit(offset, error) from error


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


def unfit(offset: int, error: Exception) -> LogError:
    """The error for a record that ended in `error` when it was taken for one of ours."""
    known = isinstance(error, MalformedError)
    return foreign(offset, str(error) if known else f"a field is missing or wrong ({type(error).__name__})")


def kind_of(event: dict[str, Any], meta: dict[str, Any], joined: bool = False) -> str | None:
    """The kind of a control record, None for a change or a logical message. Raises MalformedError.

    `joined` when the record came in parts, so that it is none itself.
    """
    kind = meta.get("kind")
    if kind is None:
        return None
    if kind not in _KINDS or event["op"] != "m" or (joined and kind == "part"):
        raise MalformedError("its kind is unknown to this version")
    if kind in ("epoch", "mark") and (meta["seq"] != 1 or "last" not in meta):
        raise MalformedError(f"its kind is {kind}, but it is not a transaction of its own")
    if kind == "epoch" and (type(meta["leader"]) is not str or type(meta.get("prev_epoch", 0)) is not int):
        raise MalformedError("an epoch that does not say who leads, or what it follows")
    return str(kind)


def is_later_part(meta: dict[str, Any]) -> bool:
    """Whether a `part` record is not the first of its record. Raises KeyError."""
    return type(meta["part"]) is int and meta["part"] > 1


def check_link(meta: dict[str, Any]) -> None:
    """Raises KeyError or MalformedError when a numbered record has not the numbers of one.

    JSON knows true and 1.0, which are equal to 1; and a number of more than 64 bits comes out as a float.
    """
    epoch, commit_lsn, prev, seq = meta["epoch"], meta["commit_lsn"], meta["prev"], meta["seq"]
    numbers = type(epoch) is type(commit_lsn) is type(prev) is type(seq) is int
    if not numbers or seq < 1 or commit_lsn < 1 or prev < 0 or not 0 < epoch <= _GREATEST_EPOCH:
        raise MalformedError("epoch, commit_lsn, prev or seq is not a number that it can be")


def ending(event: dict[str, Any], meta: dict[str, Any]) -> tuple[int, int]:
    """(end LSN, commit time in microseconds) on the final event of a transaction. Raises KeyError or MalformedError."""
    end_lsn, committed_at_us = meta["end_lsn"], event["source"]["ts_us"]
    if meta["last"] is not True or type(end_lsn) is not int or end_lsn <= meta["commit_lsn"]:
        raise MalformedError("last or end_lsn is not what ends a transaction")
    if type(committed_at_us) is not int or not 0 <= committed_at_us <= _GREATEST_TIME_US:
        raise MalformedError("source.ts_us is not a time")
    return end_lsn, committed_at_us


def position_after(event: dict[str, Any], meta: dict[str, Any], offset: int) -> Position:
    """The position that the final event of a transaction makes complete. Raises KeyError or MalformedError."""
    end_lsn, committed_at_us = ending(event, meta)
    return Position(meta["epoch"], Lsn(meta["commit_lsn"]), Lsn(end_lsn), committed_at_us, offset + 1, leader_of(meta))


def leader_of(meta: dict[str, Any]) -> str:
    """The node that led, as an `epoch` record and the final record of every transaction say (nothing in a log of a
    version that did not say it). Raises MalformedError."""
    leader = meta.get("leader", "")
    if type(leader) is not str:
        raise MalformedError("leader is not the name of a node")
    return leader


def names_in_rows(schema: TableSchema) -> tuple[str, ...]:
    """The columns, by the very strings that parsed rows have as keys: comparing those takes a third of the time."""
    return tuple(orjson.loads(orjson.dumps(dict.fromkeys(schema.column_names))))


def check_row(schema: TableSchema, event: dict[str, Any], unchanged: object) -> None:
    """Raises MalformedError when a change does not carry exactly the columns of its table, in their order.

    `unchanged` is what `cdc.unchanged` says, None when it says nothing.
    """
    op, before, after = event["op"], event["before"], event["after"]
    whole, key = schema.column_names, schema.key_columns
    if unchanged is not None and op != "u":
        raise MalformedError("unchanged columns on what is not an update")
    new = None if op == "d" else whole if unchanged is None else _without(unchanged, whole, key)
    if _columns_of(after) != new:
        raise MalformedError("a new row does not have the columns of its table")
    old = _columns_of(before)
    if (op == "c" or old is None) and (op == "d" or old is not None):
        raise MalformedError("an old row where there is none, or none where one is needed")
    if old is not None and old != whole and (old != key or not key):
        raise MalformedError("an old row has neither the columns of the key nor those of its table")


def _without(unchanged: object, whole: tuple[str, ...], key: tuple[str, ...]) -> tuple[str, ...]:
    """The columns of a new row that lacks the unchanged ones; those of the key never are among them."""
    if type(unchanged) is list and key and 0 < len(unchanged) <= len(whole):
        left = tuple(name for name in whole if name not in unchanged)
        if len(left) + len(unchanged) == len(whole) and set(key) <= set(left):
            return left
    raise MalformedError("unchanged does not name columns that can be")


def _columns_of(row: object) -> tuple[str, ...] | None:
    if row is None:
        return None
    if type(row) is not dict:
        raise MalformedError("a row is not an object")
    return tuple(row)


def check_texts(row: dict[str, Any] | None) -> None:
    """Raises MalformedError when a value is neither text nor null, or holds a character that PostgreSQL never does."""
    for value in (row or {}).values():
        if value is not None and (type(value) is not str or "\0" in value):
            raise MalformedError("a value is not text that PostgreSQL can hold")


def truncation(meta: dict[str, Any]) -> Truncation | None:
    """The statement that a `t` event ends; None on the events before the final one. Raises MalformedError."""
    told = meta.get("truncate")
    if told is None:
        return None
    tables = tuple(TableId(*table) for table in told["tables"])
    cascade, restart_identity = told["cascade"], told["restart_identity"]
    if type(cascade) is not bool or type(restart_identity) is not bool:
        raise MalformedError("the options of a truncate are not true or false")
    if not tables or not all(map(is_publishable, tables)):
        raise MalformedError("it truncates what is never published")
    return Truncation(tables, cascade, restart_identity)


def table_schema(meta: dict[str, Any]) -> TableSchema:
    """What a `schema` record describes. Raises KeyError, TypeError or ValueError when it is not what it claims."""
    schema = TableSchema.from_json(meta["schema"])
    if schema.fingerprint != meta["rel"]:
        raise MalformedError("the fingerprint does not fit the description")
    if not is_publishable(schema.table):
        raise MalformedError("it describes what is never published")
    return schema
