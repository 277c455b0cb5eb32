"""Which rows a run of events has touched, so that just these can be read anew from another node. Pure: no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from cdc.events.table import TableId

Key = tuple[str | None, ...]


@dataclass
class TouchedTable:
    """Keys (texts in the order of `columns`); `whole` when keys do not tell: truncated, or no key at all."""

    columns: tuple[str, ...] = ()
    keys: set[Key] = field(default_factory=set)
    whole: bool = False

    def mark_whole(self) -> None:
        self.whole = True
        self.keys.clear()


class TouchedRows:
    """Collects the keys of changes as the log carries them: `key` and `event` of its records, parts joined before."""

    def __init__(self) -> None:
        self.tables: dict[TableId, TouchedTable] = {}
        self.changes = 0

    def add(self, key: bytes | None, event: Mapping[str, Any]) -> None:
        op = event["op"]
        if op == "m":
            return
        self.changes += 1
        table = TableId(event["source"]["schema"], event["source"]["table"])
        touched = self.tables.setdefault(table, TouchedTable())
        if touched.whole:
            return
        if op == "t":
            self._truncated(event["cdc"].get("truncate"), table)
            return
        named = orjson.loads(key)["key"] if key else None
        columns = tuple(named or ())
        if named is None or (touched.columns and touched.columns != columns):
            touched.mark_whole()
            return
        touched.columns = columns
        for row in (event["before"], event["after"]):
            if row is not None:  # a key column that a row does not carry did not change
                touched.keys.add(tuple(row[column] if column in row else named[column] for column in columns))

    def _truncated(self, statement: Mapping[str, Any] | None, table: TableId) -> None:
        self.tables[table].mark_whole()
        for schema, name in (statement or {}).get("tables", ()):
            self.tables.setdefault(TableId(schema, name), TouchedTable()).mark_whole()
