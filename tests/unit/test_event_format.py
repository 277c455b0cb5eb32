"""The examples of ops/reference/event-format.md are what the program writes, and what it reads."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from cdc.events.table import Column, ReplicaIdentity, TableId, TableSchema
from cdc.log.chain import Chain, Verdict
from cdc.log.envelope import Envelope, Finisher, Record, finished
from cdc.log.parts import PartJoiner, split_record
from cdc.log.records import (
    UNNUMBERED,
    check_link,
    check_row,
    kind_of,
    parse,
    position_after,
    table_schema,
    truncation,
)
from cdc.log.sequences import SEQUENCES_PREFIX, sequence_values, sequences_message
from cdc.protocol.pgoutput import NO_OLD, OLD_KEY, Row
from cdc.services.heartbeat import HEARTBEAT_PREFIX

DOCUMENT = Path(__file__).parents[2] / "ops" / "reference" / "event-format.md"
ORDERS = TableSchema(
    TableId("public", "orders"),
    ReplicaIdentity.DEFAULT,
    (
        Column("id", "pg_catalog.int8", -1, True),
        Column("state", "pg_catalog.text", -1, False),
        Column("total", "pg_catalog.numeric", 655366, False),
        Column("note", "pg_catalog.text", -1, False),
    ),
)
NOON = 1_790_000_000_000_000
"""When all of it happens, in microseconds."""
SEQUENCES = {TableId("public", "orders_id_seq"): 9}
PART_BYTES = 900
"""A limit of records that the example's long row does not keep."""
WHY = {"promotion": "5f0c1d2e3a4b", "by": "ada@ops-1", "reason": "power cut"}
"""What the records of a promotion say of it."""


def written() -> list[tuple[str, Record]]:
    """A small log with each kind of record once, in its order: what it is, and the record."""
    finish = Finisher("us-east")
    log = Envelope("shop", "shop", "0.1.0", 1)

    def begin(xid: int, commit_lsn: int, prev: int) -> None:
        log.begin(xid, commit_lsn, prev, NOON, NOON + 77_000)

    begin(0, 24_022_000, 0)
    epoch = log.epoch("us-east", "7312000000000000001", 1, "cdc_shop", 0, {})
    records = [("epoch", finished(epoch, 24_022_001))]

    begin(771, 24_023_288, 24_022_000)
    orders = log.table(ORDERS)
    records += [
        ("schema", log.schema(ORDERS)),
        ("insert", orders.insert({"id": "7", "state": "new", "total": "19.90", "note": None}, 24_022_800, 1)),
        ("update", orders.update(NO_OLD, None, {"id": "7", "state": "paid", "total": "19.90"}, 24_022_960, 2)),
        (
            "update of the key",
            orders.update(
                OLD_KEY,
                {"id": "7", "state": None, "total": None, "note": None},
                {"id": "8", "state": "paid", "total": "19.90", "note": None},
                24_023_128,
                3,
            ),
        ),
        ("delete", finish(orders.delete(OLD_KEY, {"id": "8"}, 24_023_200, 4), 24_023_336)),
    ]

    begin(772, 24_023_500, 24_023_288)
    statement = {"tables": [["public", "orders"]], "cascade": False, "restart_identity": True}
    records.append(("truncate", finish(orders.truncate(statement, 24_023_400, 1), 24_023_548)))

    begin(773, 24_023_700, 24_023_500)
    records.append(("message", finish(log.message("app.note", b"stock taken", 24_023_600, 1), 24_023_748)))

    begin(0, 24_023_899, 24_023_700)
    records.append(("heartbeat", finish(log.message(HEARTBEAT_PREFIX, b"shop", 24_023_900, 1), 24_023_900)))

    begin(0, 24_023_999, 24_023_899)
    values = sequences_message(SEQUENCES)
    records.append(("sequences", finish(log.message(SEQUENCES_PREFIX, values, 24_024_000, 1), 24_024_000)))

    begin(0, 24_024_999, 24_023_999)
    records.append(("mark", finish(log.mark(1), 24_025_000)))

    begin(774, 24_026_000, 24_024_999)
    row: Row = {"id": "9", "state": "new", "total": "1.00", "note": "long " * 90}
    long = finish(orders.insert(row, 24_025_500, 1), 24_026_048)
    records.append(("part", next(split_record(long, PART_BYTES))))

    facts = {**WHY, "step": "begin", "old_leader": "us-east", "mode": "emergency"}
    records.append(("runbook", Envelope("shop", "", "0.1.0", 1).runbook(facts)))

    next_log = Envelope("shop", "", "0.1.0", 2)
    next_log.begin(0, 25_165_999, 24_024_999, NOON, NOON)
    promoted = next_log.epoch("eu-west", "7312000000000000002", 1, "cdc_shop", 1, WHY)
    records.append(("epoch of a promotion", finished(promoted, 25_166_000)))
    return records


def told() -> list[tuple[str, Any, dict[str, Any]]]:
    """Title, key and value of each example in the document."""
    section = DOCUMENT.read_text().partition("\n## Examples\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"\*\*(.+?)\*\*.*?```json\n(.*?)```", section, re.DOTALL)
    return [(title, *map(json.loads, block.split("\n\n"))) for title, block in blocks]


def test_the_examples_are_what_is_written():
    expected = [(title, json.loads(key or b"null"), json.loads(value)) for title, (key, value) in written()]
    assert told() == expected


def test_there_is_one_of_each_kind():
    metas = [value["cdc"] for _, _, value in told()]
    assert {meta.get("kind") for meta in metas} == {None, "epoch", "mark", "schema", "part", "runbook"}
    assert {value["op"] for _, _, value in told()} == set("cudtm")


def test_the_examples_are_read_as_one_log():
    chain, joiner, schemas = Chain(0, 0), PartJoiner(), {}
    for offset, (title, _, value) in enumerate(told()):
        event, meta = parse(json.dumps(value).encode(), offset)
        kind = kind_of(event, meta)
        if kind == "part":
            assert joiner.add(meta, event["message"]["content"]) is None
            continue
        if kind == "schema":
            schemas[meta["rel"]] = table_schema(meta)
        if kind in UNNUMBERED:
            continue
        check_link(meta)
        prev_epoch = meta["prev_epoch"] if kind == "epoch" else None
        last = "last" in meta
        link = chain.accept(meta["epoch"], meta["commit_lsn"], meta["prev"], meta["seq"], last, prev_epoch)
        assert link is Verdict.NEXT, title
        if last:
            assert position_after(event, meta, offset).epoch == chain.epoch
        if event["op"] in "cud":
            check_row(schemas[meta["rel"]], event, meta.get("unchanged"))
        if event["op"] == "t":
            assert truncation(meta)
        if event["op"] == "m" and event["message"]["prefix"] == SEQUENCES_PREFIX:
            assert sequence_values(event["message"]["content"]) == SEQUENCES
    assert (chain.epoch, chain.in_transaction) == (2, False)
