"""Somebody else's consumer, written from the reference alone, rebuilds the leader's tables from the topic."""

from __future__ import annotations

import ast
import inspect
import json
import signal
import time

import psycopg
import pytest
from psycopg import sql

from cdc.local import KafkaServer
from cdc.local.processes import wait_for
from tests.fixtures.pipeline import Pipelines
from tests.support import plain_reader
from tests.support.pipeline import Pipeline, rows_of
from tests.support.plain_reader import PlainReader, Row, records

# As the reference says that values are written.
REFERENCE = (
    "-c DateStyle=ISO -c IntervalStyle=postgres -c extra_float_digits=3 -c bytea_output=hex -c TimeZone=UTC "
    "-c client_encoding=UTF8"
)
TABLES = (
    "CREATE TYPE mood AS ENUM ('ok', 'not ok')",
    "CREATE TABLE customer (id bigint PRIMARY KEY, name text NOT NULL, mood mood, since timestamptz, tags text[], "
    "spent numeric(12,2), photo bytea, note text, rate float8, big text)",
    "ALTER TABLE customer ALTER big SET STORAGE EXTERNAL",
    'CREATE TABLE "odd name" (a int, "b c" text, v int, PRIMARY KEY ("b c", a))',
    "CREATE TABLE visit (at interval, who text)",
    "ALTER TABLE visit REPLICA IDENTITY FULL",
    "CREATE TABLE emptied (id int PRIMARY KEY)",
    "CREATE TABLE bulk (id int PRIMARY KEY, v text)",
)
TRANSACTIONS = (
    """INSERT INTO customer
    SELECT i, 'name ' || i, CASE i % 2 WHEN 0 THEN 'ok'::mood END, 'epoch'::timestamptz + i * '1 day 1 us'::interval,
           ARRAY['a,b', NULL, '"' || i], i * 1.10, decode('00ff', 'hex'), CASE i % 2 WHEN 0 THEN '' END, 'NaN',
           repeat(md5(i::text), 100)
    FROM generate_series(1, 20) i""",
    """UPDATE customer SET spent = -spent;
    UPDATE customer SET rate = 0.1 WHERE id < 5;
    UPDATE customer SET id = id + 100 WHERE id > 15""",
    "INSERT INTO customer (id, name, big) VALUES (900, 'large', repeat('large ', 100000))",
    "UPDATE customer SET name = 'still large' WHERE id = 900",
    """INSERT INTO "odd name" SELECT i, 'é🐘"' || i, i FROM generate_series(1, 5) i;
    UPDATE "odd name" SET a = -a WHERE a < 3;
    DELETE FROM "odd name" WHERE a = 5""",
    """INSERT INTO visit VALUES ('1 mon -1 day', 'x'), ('1 mon -1 day', 'x'), (NULL, '');
    DELETE FROM visit WHERE ctid = (SELECT min(ctid) FROM visit);
    UPDATE visit SET who = 'y' WHERE at IS NULL""",
    "INSERT INTO emptied SELECT generate_series(1, 9)",
    """TRUNCATE emptied;
    INSERT INTO emptied VALUES (77)""",
    "SELECT pg_logical_emit_message(true, 'note', 'for whom it concerns')",
    """INSERT INTO bulk SELECT i, 'v' || i FROM generate_series(1, 20000) i;
    UPDATE bulk SET v = 'w' WHERE id % 7 = 0""",
    """DELETE FROM customer WHERE id BETWEEN 5 AND 7;
    DELETE FROM bulk WHERE id > 19000""",
)


def transact_each(leader: str) -> list[int]:
    """Runs each of TRANSACTIONS; the transaction ids in commit order."""
    ids = []
    with psycopg.connect(leader) as connection:
        for statements in TRANSACTIONS:
            connection.execute(statements)
            row = connection.execute("SELECT pg_current_xact_id()::text::bigint").fetchone()
            assert row is not None
            ids.append(row[0])
            connection.commit()
    return ids


def confirmed_past(pipeline: Pipeline, lsn: int) -> bool:
    query = "SELECT confirmed_flush_lsn - '0/0'::pg_lsn FROM pg_replication_slots WHERE slot_name = '{}'"
    return int(rows_of(pipeline.leader, query.format(pipeline.group.slot))[0][0]) > lsn


def leader_rows(leader: str, table: str) -> list[Row]:
    """The rows as the reference says that the log writes them."""
    with psycopg.connect(leader, options=REFERENCE) as connection:
        names = [
            column.name
            for column in connection.execute(sql.SQL("TABLE {}").format(sql.Identifier(table))).description or ()
        ]
        cells = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(name)) for name in names)
        rows = connection.execute(sql.SQL("SELECT {} FROM {}").format(cells, sql.Identifier(table))).fetchall()
    return [dict(zip(names, row, strict=True)) for row in rows]


def in_order(rows: list[Row]) -> list[str]:
    return sorted(json.dumps(row, sort_keys=True) for row in rows)


@pytest.mark.timeout(120)
def test_reader_that_knows_only_the_reference_gets_the_leaders_rows(
    pipelines: Pipelines, kafka: KafkaServer, postgres_version: int
):
    # Given a log that holds all of a leader, and repeats: capture died inside the large transaction.
    pipeline = pipelines.new(*TABLES, version=postgres_version, kafka={"max_record_bytes": 200_000}).init()
    started_us = time.time_ns() // 1000
    xids = transact_each(pipeline.leader)
    pipeline.start_capture("capture.mid_transaction")
    assert pipeline.ends("capture") == -signal.SIGKILL
    pipeline.start_capture()
    lsn = pipeline.mark()
    assert wait_for(lambda: confirmed_past(pipeline, lsn), seconds=30), pipeline.group.tail_of_logs()
    pipeline.group.stop("capture")

    # When somebody else reads the topic.
    reader = PlainReader()
    for key, event in records(kafka.bootstrap_servers, pipeline.group.topic):
        reader.feed(key, event)

    # Then the tables are those of the leader.
    assert {name for _, name in reader.tables} == {"customer", "odd name", "visit", "emptied", "bulk"}
    for (schema, name), table in reader.tables.items():
        assert schema == "public"
        assert in_order(table.rows()) == in_order(leader_rows(pipeline.leader, name)), name
    assert ("note", b"for whom it concerns") in reader.messages

    # And every transaction is whole, in commit order, and looks as Debezium's consumers expect.
    changes = [events for events in reader.transactions if events[0]["op"] != "m" or "note" in str(events[0])]
    assert [events[0]["source"]["txId"] for events in changes] == xids
    for events in reader.transactions:
        check_transaction(events)
    for event in (event for events in changes for event in events):
        check_debezium_fields(event, pipeline, started_us)


def check_transaction(events: list[plain_reader.Event]) -> None:
    assert [event["cdc"]["seq"] for event in events] == list(range(1, len(events) + 1))
    assert [event["cdc"].get("last") for event in events] == [None] * (len(events) - 1) + [True]
    final = events[-1]["cdc"]
    assert final["end_lsn"] > final["commit_lsn"] > final["prev"]
    assert {event["cdc"]["commit_lsn"] for event in events} == {final["commit_lsn"]}
    assert {event["cdc"]["prev"] for event in events} == {final["prev"]}
    assert len({event["transaction"]["id"] for event in events}) == 1
    assert [event["transaction"]["total_order"] for event in events] == [event["cdc"]["seq"] for event in events]
    lsns = [event["source"]["lsn"] for event in events]
    assert lsns == sorted(lsns)
    assert lsns[-1] <= final["commit_lsn"]


def check_debezium_fields(event: plain_reader.Event, pipeline: Pipeline, started_us: int) -> None:
    source, now_us = event["source"], time.time_ns() // 1000
    assert event["op"] in {"c", "u", "d", "t", "m"}
    assert source["connector"] == "postgresql"
    assert source["name"] == pipeline.name
    assert source["db"] == pipeline.leader.rpartition("/")[2]
    assert source["snapshot"] == "false"
    assert isinstance(source["version"], str)
    assert started_us <= source["ts_us"] <= now_us
    assert source["ts_ms"] == source["ts_us"] // 1000
    assert started_us // 1000 <= event["ts_ms"] <= now_us // 1000
    assert (event["after"] is not None) == (event["op"] in {"c", "u"}) if event["op"] != "m" else "after" not in event
    if event["op"] in {"c", "u", "d"}:
        cells = {**(event["before"] or {}), **(event["after"] or {})}.values()
        assert all(cell is None or isinstance(cell, str) for cell in cells)


def test_the_reader_imports_nothing_of_the_project():
    tree = ast.parse(inspect.getsource(plain_reader))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not {name.partition(".")[0] for name in names} & {"cdc", "connectors", "tests"}
