"""The compiled reader takes of the log what the long way takes, as the same links and rows, and leaves it the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cdc.events.net_effect import Row
from cdc.log.chain import Chain, Verdict
from cdc.log.envelope import Finisher, finished
from cdc.log.forms import has_usual_form
from cdc.log.records import position_after
from cdc.ports import TablePlan
from cdc.protocol.pgoutput import NO_OLD, OLD_KEY
from connectors.postgres.copy_text import copy_text
from tests.unit.test_runs import COLUMNS, ROW, envelope, inserts, rows, schema, updates

pytest.importorskip("cdc.log.change_reader", reason="cdc.log.change_reader is not compiled here")
from cdc.services.batches import BatchReader, Gathered

PLAN = TablePlan(schema(), COLUMNS, ("id",), collapsible=True, moves_values=False, one_by_one=False)


@dataclass
class Stored:
    content: bytes | None
    place: int = 7

    def value(self) -> bytes | None:
        return self.content

    def offset(self) -> int:
        return self.place


def deletes(*given: Row) -> list[bytes]:
    table = envelope().table(schema())
    return [table.delete(OLD_KEY, {"id": row["id"]}, 3000 + seq, seq)[1] for seq, row in enumerate(given, 4)]


def reader_of(*examples: bytes, plan: TablePlan = PLAN) -> BatchReader:
    reader = BatchReader()
    for value in examples:
        reader.learn(value, orjson.loads(value), plan, COLUMNS)
    return reader


def standing(seq: int = 3, epoch: int = 1) -> Chain:
    """Inside the transaction of `inserts`, before its next event."""
    chain = Chain(epoch, 4000)
    chain.open_commit_lsn, chain.seq = 5000, seq
    return chain


def read(values: Sequence[bytes | None], chain: Chain | None = None, plan: TablePlan = PLAN) -> Gathered | None:
    reader = reader_of(inserts(ROW)[0], updates(ROW)[0], deletes(ROW)[0], plan=plan)
    return reader.read([Stored(value) for value in values], 0, chain or standing(), "")


def lines_in(gathered: Gathered | None) -> list[bytes]:
    if gathered is None:
        return []
    return [line for piece in (gathered.whole, gathered.begun) if piece for t in piece.batch.tables for line in t.lines]


WRITERS: list[Callable[..., list[bytes]]] = [inserts, updates]


@given(st.lists(rows, min_size=1), st.sampled_from(WRITERS), st.sampled_from([("id",), ("100%d", "id")]))
@example([{**ROW, "id": "\\", "100%d": "\\n\t\\\\\n\r\b\f\x1f\x7fü\U0001f600\\."}], inserts, ("100%d", "id"))
@example([{**ROW, "id": "\\N"}, {**ROW, "id": "12345678\\"}], updates, ("id",))
def test_rows_become_the_lines_and_keys_that_the_long_way_gives(
    given: list[Row], write: Callable[..., list[bytes]], key: tuple[str, ...]
):
    plan = TablePlan(schema(), COLUMNS, key, collapsible=True, moves_values=False, one_by_one=False)
    chain = standing()
    gathered = read(write(*given), chain, plan)
    taken = 0 if gathered is None else gathered.records
    if taken < len(given):  # a key is never null; if one is, nobody can find the row by it
        assert None in [given[taken][name] for name in key]
    if gathered is None:
        return
    assert (gathered.whole, gathered.position, chain.seq) == (None, None, 3 + taken)
    assert gathered.begun is not None
    (table,) = gathered.begun.batch.tables
    assert b"".join(table.lines) == copy_text(row.values() for row in given[:taken])
    assert table.keys == [itemgetter(*key)(row) for row in given[:taken]]
    assert gathered.begun.size == sum(map(len, write(*given)[:taken]))
    assert [change[3] for change in gathered.begun.batch.changes()] == given[:taken]


def test_a_deletion_has_a_key_and_no_line():
    gathered = read([*inserts(ROW, ROW), deletes(ROW, ROW, {**ROW, "id": "ü"})[2]])
    assert gathered is not None
    assert gathered.begun is not None
    (table,) = gathered.begun.batch.tables
    assert (table.ops, table.keys) == (["c", "c", "d"], ["7", "7", "ü"])
    assert gathered.begun.batch.changes()[2][:4] == ("d", schema().fingerprint, {"id": "ü"}, None)


def in_order(ops: str) -> list[bytes]:
    """Of one transaction."""
    writers: dict[str, Callable[..., list[bytes]]] = {"c": inserts, "u": updates, "d": deletes}
    rows = [{**ROW, "id": str(number)} for number in range(len(ops))]
    return [writers[op](*rows)[number] for number, op in enumerate(ops)]


@given(st.lists(st.text("cud", min_size=1, max_size=6), min_size=1, max_size=6))
def test_changes_of_all_kinds_follow_each_other_in_any_order(many: list[str]):
    """Also where each order was another one before."""
    reader = reader_of(inserts(ROW)[0], updates(ROW)[0], deletes(ROW)[0])
    for ops in many:
        gathered = reader.read([Stored(value) for value in in_order(ops)], 0, standing(), "")
        assert gathered is not None
        assert gathered.records == len(ops)
        assert gathered.begun is not None
        (table,) = gathered.begun.batch.tables
        assert ("".join(table.ops), table.keys) == (ops, [str(number) for number in range(len(ops))])


def test_a_form_that_was_left_behind_follows_none():
    reader = reader_of(inserts(ROW)[0], updates(ROW)[0])
    alternating = [Stored(value) for value in in_order("cucu")]
    gathered = reader.read(alternating, 0, standing(), "")
    assert gathered is not None
    assert gathered.records == 4
    newer = _with(updates(ROW)[0], b'"version":"0.1.0"', b'"version":"0.2.0"')
    reader.learn(newer, orjson.loads(newer), PLAN, COLUMNS)
    gathered = reader.read(alternating, 0, standing(), "")
    assert gathered is not None
    assert gathered.records == 1


FIRST, SECOND = inserts(ROW, ROW)
OTHERS: dict[str, bytes | None] = {
    "a repeat": inserts(ROW, first=3)[0],
    "a gap": inserts(ROW, ROW, ROW, ROW)[-1],
    "another transaction": inserts(ROW, first=5, commit_lsn=6000)[0],
    "another epoch": inserts(ROW, first=5, epoch=2)[0],
    "another table": envelope().table(schema("other")).insert(ROW, 3000, 5)[1],
    "a move": envelope().table(schema()).update(OLD_KEY, {**ROW, "id": "6"}, dict(ROW), 3000, 5)[1],
    "a part": envelope().table(schema()).update(NO_OLD, None, {"id": "7", "100%d": "new"}, 3000, 5)[1],
    "nothing": None,
    "empty": b"",
    "cut": SECOND[:-5],
    "two": SECOND * 2,
    "led by another": Finisher("ap-south")((None, SECOND), 6000)[1],
    "ended before it began": finished((None, SECOND), 5000)[1],
    "no number": SECOND.replace(b'"lsn":', b'"lsn":0'),
    "a longer number": SECOND.replace(b'"lsn":', b'"lsn":1000000000000000000'),
    "a null key": inserts(ROW, {**ROW, "id": None})[1],
    "more about it": SECOND[:-2] + b',"format":2}}',
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_it_ends_before_what_is_not_a_next_link_of_a_known_form(other: bytes | None):
    chain = standing()
    gathered = read([FIRST, other, SECOND], chain)
    assert gathered is not None
    assert (gathered.records, chain.seq, len(lines_in(gathered))) == (1, 4, 1)
    assert read([other]) is None


TEXTS = [b"\\u0000", b"\\u0041", b"\\ud83d\\ude00", b"\\/", b"\\x", b"\xff", b"\xed\xa0\x80", b"\0", b"\n", b'"']


@pytest.mark.parametrize("text", TEXTS)
def test_text_that_capture_does_not_write_is_left_to_the_long_way(text: bytes):
    assert read([FIRST.replace(b"new", b"new" + text)]) is None


def of_transactions(*sizes: int, leader: str = "") -> list[bytes]:
    """Records of whole transactions with so many inserts, of commit LSNs 5000, 6000, ..."""
    end = Finisher(leader) if leader else finished
    values = []
    for number, size in enumerate(sizes):
        commit_lsn = 5000 + 1000 * number
        opened = envelope(commit_lsn)
        opened.begin(771 * number, commit_lsn, commit_lsn - 1000, 1790000000123456 + number, 1790000000200999)
        table = opened.table(schema())
        records = [table.insert({**ROW, "id": f"{number}-{n}"}, 3000, n) for n in range(1, size + 1)]
        records[-1] = end(records[-1], commit_lsn + 500)
        values += [value for _, value in records]
    return values


@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.integers(0, 20), st.integers(1, 20))
def test_it_goes_on_as_the_chain_would_wherever_it_begins_and_ends(sizes: list[int], begin: int, count: int):
    values = of_transactions(*sizes, leader="us-east")
    stored = [Stored(value, 100 + at) for at, value in enumerate(values)]
    slow = Chain(1, 4000)
    position, complete = None, 0
    for at, record in enumerate(stored[: begin + count]):
        event = orjson.loads(record.content or b"")
        meta = event["cdc"]
        last = "last" in meta
        if at == begin:
            fast = Chain(1, slow.commit_lsn)
            fast.open_commit_lsn, fast.seq = slow.open_commit_lsn, slow.seq
        assert slow.accept(1, meta["commit_lsn"], meta["prev"], meta["seq"], last) is Verdict.NEXT
        if last and at >= begin:
            position, complete = position_after(event, meta, record.offset()), at + 1 - begin
    if begin >= len(values):
        return
    gathered = reader_of(inserts(ROW)[0]).read(stored[: begin + count], begin, fast, "us-east")
    assert gathered is not None
    assert gathered.records == len(values[begin : begin + count])
    assert (fast.commit_lsn, fast.seq) == (slow.commit_lsn, slow.seq)
    assert not fast.seq or fast.open_commit_lsn == slow.open_commit_lsn
    assert gathered.position == position
    assert (gathered.whole.batch.number if gathered.whole else 0) == complete
    ids = [orjson.loads(value)["after"]["id"] for value in values[begin : begin + count]]
    for piece, own in ((gathered.whole, ids[:complete]), (gathered.begun, ids[complete:])):
        assert [key for table in piece.batch.tables for key in table.keys] == own if piece else not own


def test_repeats_and_gaps_between_transactions_are_left_to_the_chain():
    values = of_transactions(1, 1, 1)
    assert read(values, Chain(1, 5000)) is None
    assert read(values[1:], Chain(1, 4000)) is None
    assert read(values[1:], Chain(1, 5000)) is not None
    assert read(of_transactions(2)[1:], Chain(1, 4000)) is None


@given(st.data())
def test_what_is_damaged_is_taken_only_if_it_is_still_a_change_and_the_next_link(data: st.DataObject):
    value = data.draw(st.sampled_from([*of_transactions(1), *of_transactions(2)[:1]]))
    where = data.draw(st.integers(0, len(value) - 1))
    piece = data.draw(st.sampled_from([b"", b'"', b"\\", b"0", b",", b"\xc3"]) | st.binary(max_size=2))
    changed = value[:where] + piece + value[where + data.draw(st.integers(0, 2)) :]
    gathered = read([changed], Chain(1, 4000))
    if gathered is None:
        return
    event, before = orjson.loads(changed), orjson.loads(value)
    meta = event["cdc"]
    assert Chain(1, 4000).accept(1, meta["commit_lsn"], meta["prev"], meta["seq"], "last" in meta) is Verdict.NEXT
    assert lines_in(gathered) == [copy_text([[event["after"][name] for name in COLUMNS]])]
    assert gathered.position == (position_after(event, meta, 7) if "last" in meta else None)
    for other in (event, before):
        other["after"] = other["transaction"] = other["ts_ms"] = None
        other["source"] = {name: v for name, v in other["source"].items() if name not in _NUMBERS}
        other["cdc"] = {name: v for name, v in other["cdc"].items() if name not in _NUMBERS}
    assert event == before


_NUMBERS = {"lsn", "ts_ms", "ts_us", "txId", "epoch", "commit_lsn", "prev", "seq", "end_lsn", "last"}


@pytest.mark.parametrize(
    "write",
    [
        lambda event: orjson.dumps(dict(reversed(event.items()))),
        lambda event: orjson.dumps(event, option=orjson.OPT_INDENT_2),
        lambda event: orjson.dumps({"x": {"y": 0, "lsn": 1}, **event}),
        lambda event: orjson.dumps({**event, "source": [{"y": 0, "lsn": 1}]}),
        lambda event: orjson.dumps({**event, "more": 1}),
        lambda event: orjson.dumps({"x": {"y": 0, "lsn": 1}, **{k: v for k, v in event.items() if k != "source"}}),
        lambda event: orjson.dumps(event).replace(b',"lsn"', b', "lsn"'),
    ],
    ids=["reordered", "indented", "another lsn", "no source", "more", "no source at all", "no lsn"],
)  # fmt: skip
def test_what_is_written_otherwise_teaches_no_form(write: Callable[[Any], bytes]):
    value = write(orjson.loads(FIRST))
    assert not has_usual_form(value, orjson.loads(value))


def _with(value: bytes, old: bytes, new: bytes) -> bytes:
    assert old in value
    return value.replace(old, new)


def test_a_form_that_changed_is_learned_again():
    """Another shape of the table, another version of capture, another name of the leader's database, and back again."""
    shape, version = schema().fingerprint.encode(), b'"version":"0.1.0"'
    usual = of_transactions(1)[0]
    reader = BatchReader()
    for value in (
        usual,
        _with(usual, shape, b"0123456789ab"),
        usual,
        _with(usual, version, b'"version":"0.2.0"'),
        _with(usual, b'"db":"shop', b'"db":"other'),
        usual,
    ):
        assert reader.read([Stored(value)], 0, Chain(1, 4000), "") is None
        assert reader.learn(value, orjson.loads(value), PLAN, COLUMNS)
        assert reader.learn(value, orjson.loads(value), PLAN, COLUMNS)
        assert reader.read([Stored(value)] * 2, 0, Chain(1, 4000), "") is not None


def test_a_deletion_that_lacks_a_column_of_the_key_is_not_learned():
    value = deletes(ROW)[0]
    plan = TablePlan(schema(), COLUMNS, ("id", "100%d"), collapsible=True, moves_values=False, one_by_one=False)
    assert not BatchReader().learn(value, orjson.loads(value), plan, COLUMNS)


@pytest.mark.parametrize(
    ("op", "plan"),
    [
        ("c", TablePlan(schema(), COLUMNS, ("id",), collapsible=False, moves_values=False, one_by_one=True)),
        ("c", TablePlan(schema(), COLUMNS[:2], ("id",), collapsible=False, moves_values=False, one_by_one=False)),
        ("u", TablePlan(schema(), COLUMNS, (), collapsible=False, moves_values=False, one_by_one=False)),
        ("d", TablePlan(schema(), COLUMNS, (), collapsible=False, moves_values=False, one_by_one=False)),
    ],
)
def test_where_order_matters_or_columns_differ_changes_are_read_one_by_one(op: str, plan: TablePlan):
    value = {"c": inserts, "u": updates, "d": deletes}[op](ROW)[0]
    assert read([value], plan=plan) is None
    assert read([value]) is not None
