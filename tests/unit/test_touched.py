"""Which rows a run of events has touched."""

from __future__ import annotations

from typing import Any

import orjson

from cdc.events.table import TableId
from cdc.events.touched import TouchedRows

ITEM = TableId("public", "item")


def key(**columns: str | None) -> bytes:
    return orjson.dumps({"schema": "public", "table": "item", "key": columns or None})


def change(
    op: str, before: dict[str, str | None] | None, after: dict[str, str | None] | None, **cdc: object
) -> dict[str, Any]:
    return {"op": op, "source": {"schema": "public", "table": "item"}, "before": before, "after": after, "cdc": cdc}


def test_every_change_names_its_row():
    touched = TouchedRows()
    touched.add(key(id="1"), change("c", None, {"id": "1", "v": "a"}))
    touched.add(key(id="2"), change("u", None, {"id": "2", "v": "b"}))
    touched.add(key(id="3"), change("d", {"id": "3"}, None))
    assert touched.tables[ITEM].keys == {("1",), ("2",), ("3",)}
    assert (touched.tables[ITEM].columns, touched.tables[ITEM].whole, touched.changes) == (("id",), False, 3)


def test_a_change_of_the_key_touches_the_old_row_and_the_new_one():
    touched = TouchedRows()
    touched.add(key(id="9"), change("u", {"id": "1"}, {"id": "9", "v": "a"}))
    assert touched.tables[ITEM].keys == {("1",), ("9",)}


def test_a_key_column_that_was_not_sent_did_not_change():
    touched = TouchedRows()
    touched.add(key(id="1", big="x" * 9), change("u", None, {"id": "1"}, unchanged=["big"]))
    assert touched.tables[ITEM].keys == {("1", "x" * 9)}


def test_without_a_key_the_whole_table_counts():
    touched = TouchedRows()
    touched.add(key(id="1"), change("c", None, {"id": "1"}))
    touched.add(key(), change("d", {"id": "1", "v": "a"}, None))
    touched.add(key(id="2"), change("c", None, {"id": "2"}))
    assert (touched.tables[ITEM].whole, touched.tables[ITEM].keys) == (True, set())


def test_another_replica_identity_means_another_key():
    touched = TouchedRows()
    touched.add(key(id="1"), change("c", None, {"id": "1", "code": "a"}))
    touched.add(key(code="a"), change("u", None, {"id": "1", "code": "a"}))
    assert touched.tables[ITEM].whole


def test_truncate_counts_for_every_table_that_it_names():
    touched = TouchedRows()
    statement = {"tables": [["public", "item"], ["public", "other"]], "cascade": False, "restart_identity": False}
    touched.add(key(), change("t", None, None, truncate=statement))
    assert {table for table, found in touched.tables.items() if found.whole} == {ITEM, TableId("public", "other")}


def test_messages_touch_nothing():
    touched = TouchedRows()
    touched.add(None, {"op": "m", "cdc": {}})
    assert (touched.tables, touched.changes) == ({}, 0)
