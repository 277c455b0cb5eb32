"""A run takes what capture wrote after a record, as reading each record would, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import create_autospec, patch

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cdc.events.assembler import Assembler, Resume
from cdc.events.position import Position
from cdc.events.table import Column, ReplicaIdentity, TableId, TableSchema
from cdc.log import compiled
from cdc.log.envelope import Envelope, finished
from cdc.log.records import names_in_rows
from cdc.log.runs import Run
from cdc.ports import TablePlan
from cdc.protocol.lsn import Lsn
from cdc.protocol.pgoutput import NO_OLD, OLD_KEY, Row
from cdc.services.apply import ApplyLimits, ApplyService
from cdc.stop import StopToken
from connectors.postgres.target import PostgresTarget
from tests.support import wire
from tests.support.replay import RecordedLog, collector_as_it_was

COLUMNS = ("id", "100%d", 'a "quoted" one')
FIRST = 4
texts = st.none() | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
rows = st.tuples(*[texts] * len(COLUMNS)).map(lambda cells: dict(zip(COLUMNS, cells, strict=True)))


def schema(name: str = "it%ms") -> TableSchema:
    columns = tuple(Column(column, "pg_catalog.text", -1, column == "id") for column in COLUMNS)
    return TableSchema(TableId("public", name), ReplicaIdentity.DEFAULT, columns)


def envelope(commit_lsn: int = 5000, epoch: int = 1) -> Envelope:
    opened = Envelope("100%d", 'shop "%b"', "0.1.0", epoch)
    opened.begin(771, commit_lsn, 4000, 1790000000123456, 1790000000200999)
    return opened


def inserts(*given: Row, first: int = FIRST, **where: int) -> list[bytes]:
    table = envelope(**where).table(schema())
    return [table.insert(row, 3000 + 7 * seq, seq)[1] for seq, row in enumerate(given, first)]


def updates(*given: Row) -> list[bytes]:
    table = envelope().table(schema())
    return [table.update(NO_OLD, None, row, 3000 + seq, seq)[1] for seq, row in enumerate(given, FIRST)]


def run_of(value: bytes) -> Run:
    run = Run.of(value, orjson.loads(value), names_in_rows(schema()))
    assert run is not None
    return run


ROW: Row = {"id": "7", "100%d": "new", 'a "quoted" one': None}


@given(st.lists(rows, min_size=2), st.sampled_from([inserts, updates]))
@example([ROW, {**ROW, "100%d": '},"cdc":{"seq":1,'}, {**ROW, "id": '"lsn":1,"total_order":1'}], inserts)
def test_the_rows_are_those_of_the_records(given: list[Row], write: Callable[..., list[bytes]]):
    values = write(*given)
    run = run_of(values[0])
    assert run.rows(values[1:], FIRST + 1) == (given[1:], sum(map(len, values[1:])))
    event = orjson.loads(values[0])
    assert (run.op, run.fingerprint, run.commit_lsn) == (event["op"], event["cdc"]["rel"], event["cdc"]["commit_lsn"])


def test_numbers_get_longer():
    values = inserts(ROW, ROW, ROW, first=9)
    assert run_of(values[0]).rows(values[1:], 10)[0] == [ROW, ROW]


OTHERS: dict[str, bytes | None] = {
    "a repeat": inserts(ROW)[0],
    "a gap": inserts(ROW, ROW, ROW, ROW)[-1],
    "another transaction": inserts(ROW, first=FIRST + 1, commit_lsn=6000)[0],
    "another epoch": inserts(ROW, first=FIRST + 1, epoch=2)[0],
    "another table": envelope().table(schema("other")).insert(ROW, 3000, FIRST + 1)[1],
    "another operation": updates(ROW, ROW)[-1],
    "a deletion": envelope().table(schema()).delete(OLD_KEY, ROW, 3000, FIRST + 1)[1],
    "the last": finished((None, inserts(ROW, ROW)[-1]), 6000)[1],
    "nothing": None,
    "empty": b"",
    "cut": inserts(ROW, ROW)[-1][:-5],
    "no number": inserts(ROW, ROW)[-1].replace(b'"lsn":', b'"lsn":0'),
    "two": inserts(ROW, ROW)[-1] * 2,
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_it_ends_before_what_is_not_of_it(other: bytes | None):
    first, second, third = inserts(ROW, ROW, ROW)
    run = run_of(first)
    assert run.rows([other, second], FIRST + 1) == ([], 0)
    assert run.rows([second, other, third], FIRST + 1)[0] == [ROW]


def test_it_ends_before_an_update_that_carries_more_or_less_than_the_new_row():
    table = envelope().table(schema())
    first = updates(ROW)[0]
    _, moved = table.update(OLD_KEY, {**ROW, "id": "6"}, dict(ROW), 3000, FIRST + 1)
    _, partial = table.update(NO_OLD, None, {"id": "7", "100%d": "new"}, 3000, FIRST + 1)
    for other in (moved, partial):
        assert run_of(first).rows([other], FIRST + 1) == ([], 0)


@given(st.data())
def test_one_changed_byte_is_found_wherever_it_is_not_a_part_of_row_or_lsn(data: st.DataObject):
    first, second = inserts(ROW, ROW)
    where = data.draw(st.integers(0, len(second) - 1))
    byte = bytes([data.draw(st.integers(0, 255).filter(lambda byte: byte != second[where]))])
    changed = second[:where] + byte + second[where + 1 :]
    taken, _ = run_of(first).rows([changed], FIRST + 1)
    if taken:
        event, before = orjson.loads(changed), orjson.loads(second)
        assert taken == [event["after"]]
        event["source"].pop("lsn"), before["source"].pop("lsn")
        assert {**event, "after": None} == {**before, "after": None}


def _with_row(value: bytes, row: bytes) -> bytes:
    start = value.index(b'"after":') + len(b'"after":')
    return value[:start] + row + value[value.index(b',"cdc":') :]


ROW_BYTES = orjson.dumps(ROW)


@pytest.mark.parametrize(
    "texts",
    [
        [b'{"id":"7"}'],
        [b"{}"],
        [b"null"],
        [b'{"id":"7",}'],
        [ROW_BYTES[:-1] + b',"more":"1"}'],
        [ROW_BYTES + b"," + ROW_BYTES],
        [ROW_BYTES + b',"op":"d","after":' + ROW_BYTES],
        [ROW_BYTES[:-1] + b',"id":"8"', b'"id":"8"}'],
        [ROW_BYTES.replace(b'"new"', b'"ne},{w'), ROW_BYTES[20:], ROW_BYTES + b"," + ROW_BYTES],
        [b"{" + ROW_BYTES, ROW_BYTES],
        [ROW_BYTES.replace(b"7", b"\xff")],
    ],
)
def test_rows_that_are_none_are_left_to_whoever_reads_them_one_by_one(texts: list[bytes]):
    first, *others = inserts(ROW, *[ROW] * len(texts))
    values = [_with_row(value, text) for value, text in zip(others, texts, strict=True)]
    assert run_of(first).rows(values, FIRST + 1) == ([], 0)


def _reordered(event: dict[str, Any]) -> dict[str, Any]:
    return dict(reversed(event.items()))


@pytest.mark.parametrize(
    "write",
    [
        lambda event: orjson.dumps(_reordered(event)),
        lambda event: orjson.dumps(event, option=orjson.OPT_INDENT_2),
        lambda event: orjson.dumps({**event, "nested": {"after": {}}, "cdc": event["cdc"]})
        .replace(b'"nested":{"after":{}}', b'"nested":1,"before":null,"after":{},"after":%b' % ROW_BYTES),
        lambda event: orjson.dumps({"x": {"lsn": 1, "y": 0}, **event}),
        lambda event: orjson.dumps({**event, "source": [{"lsn": 1, "y": 0}]}),
        lambda event: orjson.dumps({**event, "transaction": {"id": "", "total_order": 5}}),
    ],
    ids=["reordered", "indented", "doubled", "another lsn", "no source", "another number"],
)  # fmt: skip
def test_what_is_written_otherwise_begins_no_run(write: Callable[[dict[str, Any]], bytes]):
    value = write(orjson.loads(inserts(ROW)[0]))
    assert Run.of(value, orjson.loads(value), names_in_rows(schema())) is None


TABLES = (16400, 16401)
WIRE_COLUMNS = [("id", 25, -1, True), ("100%d", 25, -1, False), ('a "quoted" one', 25, -1, False)]
cells = st.sampled_from(["1", "2", "", "\t", '"', "},{", "\u00fc", None])
changes = st.tuples(
    st.sampled_from(TABLES),
    st.sampled_from(["insert", "insert", "insert", "update", "update", "move", "partial", "delete", "message"]),
    st.tuples(cells, cells, cells),
)


def _message(table: int, op: str, row: tuple[str | None, ...]) -> bytes:
    key = [row[0] or "9", None, None]
    match op:
        case "insert":
            return wire.insert(table, row)
        case "update":
            return wire.update(table, row)
        case "move":
            return wire.update(table, row, key=key)
        case "partial":
            return wire.update(table, [row[0], wire.UNCHANGED, row[2]])
        case "delete":
            return wire.delete(table, key=key)
    return wire.message(1, "prefix", b"content")


def log_of(transactions: list[list[tuple[int, str, tuple[str | None, ...]]]]) -> list[bytes]:
    frames = [wire.xlog(wire.relation(oid, "public", f"t{oid}", "d", WIRE_COLUMNS)) for oid in TABLES]
    lsn = 1000
    for transaction in transactions:
        commit_lsn = lsn + 10 * len(transaction) + 10
        frames.append(wire.xlog(wire.begin(commit_lsn), lsn))
        for change in transaction:
            lsn += 10
            frames.append(wire.xlog(_message(*change), lsn))
        frames.append(wire.xlog(wire.commit(commit_lsn, commit_lsn + 8), commit_lsn))
        lsn = commit_lsn + 8
    assembler = Assembler(
        Envelope("shop", "shop", "0.1.0", 1),
        finished,
        {25: "pg_catalog.text"},
        Resume(Lsn(1), Lsn(2), Lsn(0), 0),
        lambda: 5,
    )
    return [value for _, value in assembler.feed(frames)]


def _applied(log: list[bytes], alike_before_run: int | None, fetch: int) -> list[Any]:
    """The changes in the order in which the follower gets them, and the positions that are committed between; None for
    the compiled reader."""
    stop = StopToken()
    target = create_autospec(PostgresTarget, instance=True)
    target.copied_ahead.return_value = {}
    target.open.return_value = Position(1, Lsn(1), Lsn(2), 0, 0)
    target.plan.side_effect = lambda schema, _: TablePlan(schema, schema.column_names, ("id",), True, False, False)
    done: list[Any] = []
    target.apply_in_order.side_effect = lambda steps: done.extend(change for _, change in steps)
    target.commit.side_effect = lambda position, _: done.append(position)
    service = ApplyService(lambda: RecordedLog(log, stop), target, "follower", ApplyLimits(rows=30, fetch=fetch))
    with (
        collector_as_it_was(),
        patch("cdc.services.replay.SMALL_SEGMENT", 1000),
        patch("cdc.services.apply.ALIKE_BEFORE_RUN", alike_before_run or 0),
        patch("cdc.services.apply.ChangeReader", compiled.ChangeReader if alike_before_run is None else None),
    ):
        service.run(stop)
    return done


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(changes, min_size=1, max_size=25), min_size=1, max_size=4), st.integers(1, 40))
def test_read_together_or_one_by_one_the_follower_gets_the_same(
    transactions: list[list[tuple[int, str, tuple[str | None, ...]]]], fetch: int
):
    log = log_of(transactions)
    one_by_one = _applied(log, 10_000, fetch)
    assert _applied(log, 0, fetch) == one_by_one
    assert _applied(log, None, fetch) == one_by_one
