"""Records as ops/reference/event-format.md describes them."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.errors import ProtocolError
from cdc.events.table import Column, ReplicaIdentity, TableId, TableSchema
from cdc.log.envelope import Envelope, Finisher, Record, finished
from cdc.protocol.pgoutput import NO_OLD, OLD_KEY, OLD_ROW, Row

COLUMNS = (("id", "int8", True), ("state", "text", False), ("note", "text", False))


def schema(identity: str = "d", keys: tuple[str, ...] = ("id",), name: str = "orders") -> TableSchema:
    columns = tuple(
        Column(column, f"pg_catalog.{kind}", -1, column in keys or identity == "f") for column, kind, _ in COLUMNS
    )
    return TableSchema(TableId("public", name), ReplicaIdentity(identity), columns)


def envelope() -> Envelope:
    opened = Envelope("shop", "shopdb", "0.1.0", 1)
    opened.begin(771, 24023288, 24022000, 1790000000123456, 1790000000200999)
    return opened


def read(record: Record) -> tuple[Any, dict[str, Any]]:
    key, value = record
    return (None if key is None else orjson.loads(key)), orjson.loads(value)


def test_an_update_is_the_record_of_the_reference() -> None:
    table = envelope().table(schema())
    key, value = read(finished(table.update(NO_OLD, None, {"id": "7", "state": "paid"}, 24023128, 2), 24023336))
    assert key == {"schema": "public", "table": "orders", "key": {"id": "7"}}
    assert value == {
        "op": "u",
        "ts_ms": 1790000000200,
        "source": {
            "version": "0.1.0",
            "connector": "postgresql",
            "name": "shop",
            "db": "shopdb",
            "snapshot": "false",
            "schema": "public",
            "table": "orders",
            "ts_ms": 1790000000123,
            "ts_us": 1790000000123456,
            "txId": 771,
            "lsn": 24023128,
        },
        "transaction": {"id": "771:24023288", "total_order": 2},
        "cdc": {
            "epoch": 1,
            "commit_lsn": 24023288,
            "prev": 24022000,
            "rel": schema().fingerprint,
            "seq": 2,
            "unchanged": ["note"],
            "last": True,
            "end_lsn": 24023336,
        },
        "before": None,
        "after": {"id": "7", "state": "paid"},
    }


ROW = {"id": "7", "state": "new", "note": None}


class TestChanges:
    def test_insert(self) -> None:
        key, value = read(envelope().table(schema()).insert(dict(ROW), 5, 1))
        assert (value["op"], value["before"], value["after"]) == ("c", None, ROW)
        assert key["key"] == {"id": "7"}
        assert "unchanged" not in value["cdc"]
        assert "last" not in value["cdc"]

    def test_a_delete_shows_the_key_or_under_full_the_row(self) -> None:
        by_key = {"id": "7", "state": None, "note": None}
        key, value = read(envelope().table(schema()).delete(OLD_KEY, by_key, 5, 1))
        assert (value["op"], value["before"], value["after"]) == ("d", {"id": "7"}, None)
        assert key["key"] == {"id": "7"}
        key, value = read(envelope().table(schema("f")).delete(OLD_ROW, dict(ROW), 5, 1))
        assert value["before"] == ROW
        assert key["key"] is None

    def test_a_changed_key_shows_the_old_one_before_and_the_new_one_as_record_key(self) -> None:
        old = {"id": "6", "state": None, "note": None}
        key, value = read(envelope().table(schema()).update(OLD_KEY, old, dict(ROW), 5, 1))
        assert value["before"] == {"id": "6"}
        assert key["key"] == {"id": "7"}

    def test_an_old_key_that_did_not_change_is_not_shown(self) -> None:
        old = {"id": "7", "state": None, "note": None}
        assert read(envelope().table(schema()).update(OLD_KEY, old, dict(ROW), 5, 1))[1]["before"] is None

    def test_under_full_what_was_not_sent_comes_from_the_old_row(self) -> None:
        old: Row = {"id": "7", "state": "old", "note": "long"}
        _, value = read(envelope().table(schema("f")).update(OLD_ROW, old, {"id": "7", "state": "new"}, 5, 1))
        assert value["after"] == {"id": "7", "state": "new", "note": "long"}
        assert value["before"] == old
        assert "unchanged" not in value["cdc"]

    def test_a_key_column_that_was_not_sent_comes_from_the_old_key(self) -> None:
        table = envelope().table(schema(keys=("id", "note")))
        old = {"id": "6", "state": None, "note": "long"}
        key, value = read(table.update(OLD_KEY, old, {"id": "7", "state": "new"}, 5, 1))
        assert value["after"] == {"id": "7", "state": "new", "note": "long"}
        assert list(value["after"]) == ["id", "state", "note"]
        assert key["key"] == {"id": "7", "note": "long"}
        assert value["before"] == {"id": "6", "note": "long"}

    def test_a_key_column_that_is_nowhere_is_a_protocol_error(self) -> None:
        with pytest.raises(ProtocolError):
            envelope().table(schema()).update(NO_OLD, None, {"state": "new", "note": None}, 5, 1)

    @pytest.mark.parametrize(("identity", "keys"), [("n", ()), ("d", ()), ("f", ("id",))])
    def test_without_a_key_the_record_key_is_the_table(self, identity: str, keys: tuple[str, ...]) -> None:
        key, _ = read(envelope().table(schema(identity, keys)).insert(dict(ROW), 5, 1))
        assert key == {"schema": "public", "table": "orders", "key": None}

    def test_a_truncate_shows_no_rows(self) -> None:
        statement = {"tables": [["public", "orders"]], "cascade": False, "restart_identity": False}
        _, value = read(envelope().table(schema()).truncate(statement, 5, 1))
        assert (value["op"], value["before"], value["after"]) == ("t", None, None)
        assert value["cdc"]["truncate"] == statement


class TestAnyText:
    @given(st.text(), st.text(), st.text())
    def test_values_and_names_survive(self, name: str, value: str, table: str) -> None:
        columns = (Column(name, "pg_catalog.text", -1, True), Column(name + "2", "pg_catalog.text", -1, False))
        described = TableSchema(TableId("public", table), ReplicaIdentity.DEFAULT, columns)
        row: dict[str, str | None] = {name: value, name + "2": None}
        key, event = read(finished(envelope().table(described).insert(row, 5, 1), 9))
        assert event["after"] == row
        assert key == {"schema": "public", "table": table, "key": {name: value}}
        assert event["source"]["table"] == table
        assert event["cdc"]["last"] is True


class TestControlRecords:
    def test_schema_describes_the_table_and_is_not_numbered(self) -> None:
        _, value = read(envelope().schema(schema()))
        assert value["op"] == "m"
        assert value["message"]["prefix"] == "cdc.schema"
        assert TableSchema.from_json(value["cdc"]["schema"]) == schema()
        assert value["cdc"]["rel"] == schema().fingerprint
        assert "seq" not in value["cdc"]

    def test_mark_is_a_transaction_of_its_own(self) -> None:
        opened = envelope()
        opened.begin(0, 899, 200, 5_000_000, 6_000_000)
        key, value = read(finished(opened.mark(1), 900))
        assert key is None
        assert value["cdc"] == {
            "kind": "mark", "epoch": 1, "commit_lsn": 899, "prev": 200, "seq": 1, "last": True, "end_lsn": 900,
        }  # fmt: skip
        assert value["source"]["ts_us"] == 5_000_000
        assert value["source"]["txId"] is None

    def test_epoch_says_who_leads(self) -> None:
        _, value = read(finished(envelope().epoch("us-east", "70", 1, "cdc_shop", 0, {"promotion": "p"}), 900))
        del value["cdc"]["commit_lsn"], value["cdc"]["prev"]
        assert value["cdc"] == {
            "kind": "epoch", "leader": "us-east", "system_id": "70", "timeline": 1, "slot": "cdc_shop", "epoch": 1,
            "seq": 1, "prev_epoch": 0, "promotion": "p", "last": True, "end_lsn": 900,
        }  # fmt: skip

    def test_the_last_event_of_a_transaction_says_who_led(self) -> None:
        _, value = read(Finisher("100%")(envelope().table(schema()).insert({"id": "7", "state": None}, 5, 1), 9))
        assert (value["cdc"]["last"], value["cdc"]["end_lsn"], value["cdc"]["leader"]) == (True, 9, "100%")

    def test_messages_carry_any_bytes(self) -> None:
        key, value = read(envelope().message("app", b"\xff\0", 5, 1))
        assert key == {"prefix": "app"}
        assert value["message"] == {"prefix": "app", "content": "/wA="}
