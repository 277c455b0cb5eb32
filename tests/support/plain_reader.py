"""A consumer of the log as somebody else would write it: confluent-kafka, json, and ops/reference/event-format.md.

It shares no code with the project, on purpose: test_independent_reader.py holds that too.
"""

from __future__ import annotations

import base64
import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import Consumer, TopicPartition

Event = dict[str, Any]
Row = dict[str, str | None]


def records(bootstrap_servers: str, topic: str, seconds: float = 30.0) -> Iterator[tuple[Any, Event]]:
    """Key and value of every record that is in the topic now."""
    consumer = Consumer({"bootstrap.servers": bootstrap_servers, "group.id": "somebody-else", "log_level": 0})
    try:
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, 0), seconds)
        consumer.assign([TopicPartition(topic, 0, low)])
        deadline = time.monotonic() + seconds
        position = low
        while position < high:
            assert time.monotonic() < deadline, f"the topic was read up to {position} of {high} in {seconds:g} s"
            for message in consumer.consume(1000, 0.2):
                assert message.error() is None, message.error()
                key, value = message.key(), message.value()
                assert value is not None
                position = (message.offset() or 0) + 1
                yield json.loads(key) if key else None, json.loads(value)
    finally:
        consumer.close()


@dataclass
class Table:
    """Rows by key; those of a table without a key are counted."""

    keyed: dict[str, Row] = field(default_factory=dict)
    others: Counter[str] = field(default_factory=Counter)

    def rows(self) -> list[Row]:
        return [*self.keyed.values(), *(json.loads(text) for text in self.others.elements())]


class PlainReader:
    """Rebuilds all tables. `feed` it the records in order; raises AssertionError where the log breaks its rules."""

    def __init__(self) -> None:
        self.tables: dict[tuple[str, str], Table] = {}
        self.columns: dict[str, list[str]] = {}
        self.transactions: list[list[Event]] = []
        self.repeats = 0
        self.messages: list[tuple[str, bytes]] = []
        self._epoch = 0
        self._complete = 0
        self._open: tuple[int, int] = (0, 0)
        self._parts: dict[int, str] = {}

    def feed(self, key: Any, event: Event) -> None:
        cdc = event["cdc"]
        if cdc.get("kind") == "part":
            joined = self._join(cdc, event["message"]["content"])
            if joined is not None:
                self.feed(key, joined)
        elif cdc.get("kind") == "schema":
            self.columns[cdc["rel"]] = [name for name, *_ in cdc["schema"]["columns"]]
        elif self._is_next(cdc):
            self._take(key, event)
        else:
            self.repeats += 1

    def _join(self, cdc: Event, content: str) -> Event | None:
        if cdc["part"] == 1:
            self._parts.clear()
        self._parts[cdc["part"]] = content
        if len(self._parts) < cdc["parts"]:
            return None
        joined: Event = json.loads(b"".join(base64.b64decode(self._parts[n + 1]) for n in range(cdc["parts"])))
        return joined

    def _is_next(self, cdc: Event) -> bool:
        commit_lsn, seq = cdc["commit_lsn"], cdc["seq"]
        if cdc["epoch"] < self._epoch or (cdc["epoch"], commit_lsn) <= (self._epoch, self._complete):
            return False
        open_lsn, open_seq = self._open
        if (commit_lsn == open_lsn and seq <= open_seq) or commit_lsn < open_lsn:
            return False
        if open_seq:
            assert (commit_lsn, seq) == (open_lsn, open_seq + 1), f"a gap in a transaction: {self._open}, {cdc}"
        else:
            assert seq == 1, f"events are missing before {cdc}"
            assert cdc["prev"] <= self._complete < commit_lsn, f"transactions are missing before {cdc}"
        self._epoch = cdc["epoch"]
        return True

    def _take(self, key: Any, event: Event) -> None:
        cdc = event["cdc"]
        if cdc["seq"] == 1:
            self.transactions.append([])
        self.transactions[-1].append(event)
        if cdc.get("last"):
            self._complete, self._open = cdc["commit_lsn"], (0, 0)
        else:
            self._open = (cdc["commit_lsn"], cdc["seq"])
        if event["op"] == "m":
            if "kind" not in cdc:
                self.messages.append((event["message"]["prefix"], base64.b64decode(event["message"]["content"])))
            return
        self._change(key, event)

    def _change(self, key: Any, event: Event) -> None:
        place = (event["source"]["schema"], event["source"]["table"])
        assert (key["schema"], key["table"]) == place
        table = self.tables.setdefault(place, Table())
        before, after = event["before"], event["after"]
        if event["op"] == "t":
            table.keyed.clear()
            table.others.clear()
        elif key["key"] is None:
            self._count(table, before, after)
        else:
            self._place(table, key["key"], event)

    def _count(self, table: Table, before: Row | None, after: Row | None) -> None:
        if before is not None:
            assert table.others[_text(before)] > 0, "a row is changed that is not there"
            table.others[_text(before)] -= 1
        if after is not None:
            table.others[_text(after)] += 1

    def _place(self, table: Table, key: Row, event: Event) -> None:
        op, before, after = event["op"], event["before"], event["after"]
        if op == "c":
            assert _text(key) not in table.keyed, "a row is inserted that is there"
            table.keyed[_text(key)] = after
            return
        old_key = key if before is None else {name: before[name] for name in key}
        old = table.keyed.pop(_text(old_key))
        if op == "d":
            assert after is None
            return
        unchanged = event["cdc"].get("unchanged", [])
        assert not set(unchanged) & set(after)
        assert set(after) | set(unchanged) == set(self.columns[event["cdc"]["rel"]])
        table.keyed[_text(key)] = {**{name: old[name] for name in unchanged}, **after}


def _text(row: Row) -> str:
    return json.dumps(row, sort_keys=True)
