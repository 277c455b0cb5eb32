"""The compiled way of a row gives the bytes that the interpreted one gives, and leaves to it what it does not know."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.errors import LogError, ProtocolError
from cdc.events.assembler import DESCRIBE_PREFIX, Assembler, Record, Resume
from cdc.log import envelope
from cdc.log.envelope import Envelope, Finisher
from cdc.protocol.lsn import Lsn
from tests.support import wire
from tests.support.capture import COMMITTED_US, NOTHING, NOW_US, TYPES

whole_rows = pytest.importorskip("cdc.log.whole_rows", reason="cdc.log.whole_rows is not compiled here")

TABLE, OTHER = 16400, 16401
SHAPES = {
    "one key": [("id", 20, -1, True), ('a "quoted" name', 25, -1, False), ("naïve\n", 25, -1, False)],
    "two keys": [("note", 25, -1, False), ("b", 25, -1, True), ("a", 25, -1, True)],
    "no key": [("note", 25, -1, False), ("more", 25, -1, False), ("rest", 25, -1, False)],
}

texts = st.text(max_size=40) | st.text(st.characters(max_codepoint=0x7F), max_size=40)
cells = st.none() | texts
rows = st.lists(cells, min_size=3, max_size=3)
unsent = st.lists(cells | st.just(wire.UNCHANGED), min_size=3, max_size=3)
tables = st.sampled_from([TABLE, OTHER])
messages = st.one_of(
    st.builds(wire.insert, tables, rows),
    st.builds(wire.insert, tables, rows),
    st.builds(wire.update, tables, rows),
    st.builds(wire.update, tables, unsent, old=rows),
    st.builds(wire.update, tables, unsent, key=rows),
    st.builds(wire.delete, tables, key=rows),
)


def frames_of(shape: str, transactions: list[list[bytes]]) -> list[bytes]:
    frames = [wire.xlog(wire.relation(oid, "public", f"t{oid}", "d", SHAPES[shape])) for oid in (TABLE, OTHER)]
    for number, inner in enumerate(transactions):
        lsn = 2**40 + number * 1000
        frames.append(wire.xlog(wire.begin(lsn + 900, COMMITTED_US, 771), lsn))
        frames += (wire.xlog(message, lsn + at) for at, message in enumerate(inner))
        frames.append(wire.xlog(wire.commit(lsn + 900, lsn + 940, COMMITTED_US), lsn + 900))
    return frames


def records_of(frames: list[bytes], compiled: bool, at_once: int = 1000, resume: Resume = NOTHING) -> list[Any] | str:
    """The records and where the assembler is then, or what is said of frames that have none."""
    with pytest.MonkeyPatch.context() as patch:
        if not compiled:
            patch.setattr(envelope, "WholeRows", None)
            patch.setattr(envelope, "WholeTransactions", None)
        assembler = Assembler(Envelope("shop", "shopdb", "0.1.0", 1), Finisher("us"), TYPES, resume, lambda: NOW_US)
        records: list[Any] = []
        try:
            for first in range(0, len(frames), at_once):
                records += assembler.feed(frames[first : first + at_once])
        except (ProtocolError, LogError) as error:
            return str(error)
        return [*records, assembler.complete_lsn, assembler.received_lsn, assembler.transactions]


@given(
    st.sampled_from(sorted(SHAPES)),
    st.lists(st.lists(messages, max_size=5), min_size=1, max_size=4),
    st.integers(1, 30),
)
def test_both_ways_give_the_same_records(shape: str, transactions: list[list[bytes]], at_once: int):
    frames = frames_of(shape, transactions)
    assert records_of(frames, True, at_once) == records_of(frames, False, at_once)


@given(st.data())
def test_both_ways_go_on_alike_from_the_middle(data: st.DataObject):
    transactions = data.draw(st.lists(st.lists(messages, min_size=1, max_size=3), min_size=1, max_size=4))
    lsns = st.sampled_from([0, *(2**40 + number * 1000 + 900 for number in range(len(transactions)))])
    done, partial = data.draw(lsns), data.draw(lsns)
    resume = Resume(Lsn(max(done, 1)), Lsn(done + 40), Lsn(partial), data.draw(st.integers(0, 3)) if partial else 0)
    frames = frames_of("one key", transactions)
    assert records_of(frames, True, resume=resume) == records_of(frames, False, resume=resume)


between: st.SearchStrategy[list[bytes]] = st.one_of(
    st.just([wire.keepalive(2**42, True, NOW_US)]),
    st.builds(lambda oid, shape: [wire.xlog(wire.relation(oid, "public", f"t{oid}", "d", SHAPES[shape]))],
              tables, st.sampled_from(sorted(SHAPES))),
    st.just([]),
)  # fmt: skip


parts = st.tuples(st.lists(messages, min_size=1, max_size=3), between, st.booleans())


@given(st.lists(parts, min_size=1, max_size=6), st.integers(1, 30))
def test_both_ways_go_on_alike_whatever_comes_between(parts: list[tuple[list[bytes], list[bytes], bool]], at_once: int):
    frames = frames_of("one key", [inner for inner, _, _ in parts])
    whole: list[bytes] = frames[:2]
    at = 2
    for number, (inner, other, describe) in enumerate(parts):
        whole += frames[at : at + len(inner) + 2]
        at += len(inner) + 2
        if describe:
            whole.append(wire.xlog(wire.message(2**40 + number * 1000 + 950, DESCRIBE_PREFIX, b"", False), 0))
        whole += other
    assert records_of(whole, True, at_once) == records_of(whole, False, at_once)


@pytest.mark.parametrize("rows_each", [1, 2, 31, 32, 33, 70])
def test_transactions_of_any_length(rows_each: int):
    inner = [wire.insert(TABLE if n % 3 else OTHER, [str(n), "text", None]) for n in range(rows_each)]
    frames = frames_of("one key", [inner, [], inner, inner])
    assert records_of(frames, True) == records_of(frames, False)


def test_short_transactions_of_whole_rows_are_taken_together():
    rows = whole_rows.WholeRows(("id", "x", "y"), ("id",), b'{"key":', b"c", b"u", b"")
    whole = whole_rows.WholeTransactions(1, b"}}")
    whole.add(TABLE, rows)
    one = [wire.insert(TABLE, ["1", "a", "b"])]
    frames = frames_of("one key", [one, one * 2, [wire.insert(OTHER, ["1", "a", "b"])], one])[2:]
    records: list[Record] = []
    assert whole.encode(frames, 0, 5, 6, NOW_US, records) == 7
    assert (whole.transactions, whole.commit_lsn, whole.end_lsn, len(records)) == (2, 2**40 + 1900, 2**40 + 1940, 3)
    assert whole.encode(frames, 7, 5, 6, NOW_US, records) == 0
    whole.add(OTHER, rows)
    assert whole.encode(frames, 7, 5, 6, NOW_US, records) == 6
    whole.forget(TABLE)
    assert whole.encode(frames, 0, 5, 6, NOW_US, records) == 0


@pytest.mark.parametrize("lsn", [2**40 + 899, 2**40 + 900, 2**40 + 950])
def test_what_does_not_follow_is_told_in_the_same_words(lsn: int):
    frames = frames_of("one key", [[wire.insert(TABLE, ["1", "a", "b"])]] * 2)
    frames[-3:] = [
        wire.xlog(wire.begin(lsn, COMMITTED_US, 771), lsn),
        frames[-2],
        wire.xlog(wire.commit(lsn, lsn + 1, COMMITTED_US), lsn),
    ]
    assert records_of(frames, True) == records_of(frames, False)


@pytest.mark.parametrize("time_us", [0, -(2**62), 2**62, COMMITTED_US])
@pytest.mark.parametrize("xid", [0, 2**32 - 1])
def test_times_and_transaction_ids(time_us: int, xid: int):
    frames = frames_of("one key", [[wire.insert(TABLE, ["1", "a", "b"])]])
    frames += [
        wire.xlog(wire.begin(2**41, time_us, xid), 2**41),
        wire.xlog(wire.insert(TABLE, ["1", "a", "b"]), 2**41),
        wire.xlog(wire.commit(2**41, 2**41 + 8, time_us), 2**41),
    ]
    assert records_of(frames, True) == records_of(frames, False)


@given(st.binary(min_size=1, max_size=30))
def test_bytes_that_are_no_text_are_refused_by_both_in_the_same_words(value: bytes):
    whole = wire.insert(TABLE, ["1", "x" * len(value), None])
    frames = frames_of("one key", [[wire.insert(TABLE, ["0", "", ""]), whole.replace(b"x" * len(value), value, 1)]])
    assert records_of(frames, True) == records_of(frames, False)


@given(st.integers(0, 200), st.integers(0, 255), st.booleans())
def test_damaged_rows_are_refused_by_both_in_the_same_words(at: int, byte: int, cut: bool):
    frames = frames_of("two keys", [[wire.insert(TABLE, ["text", "1", None]), wire.update(TABLE, ["", "2", "ä"])]])
    damaged = bytearray(frames[4])
    at = 26 + at % (len(damaged) - 26)
    damaged[at] = byte
    frames[4] = bytes(damaged[:at] if cut else damaged)
    assert records_of(frames, True) == records_of(frames, False)


@pytest.mark.parametrize("size", [2**16 - 100, 2**16, 2**20], ids=["largest", "too large", "huge"])
@pytest.mark.parametrize("character", ["a", '"', "\x1f", "é"], ids=["plain", "quote", "control", "two bytes"])
def test_large_values(size: int, character: str):
    text = character * (size // len(character.encode()))
    frames = frames_of("one key", [[wire.insert(TABLE, ["1", text, "b"]), wire.insert(TABLE, ["2", "a", text])]])
    assert records_of(frames, True) == records_of(frames, False)


def test_every_character_below_the_surrogates_and_some_above():
    everything = "".join(map(chr, range(0xD800))) + "\ue000\uffff\U0001f600\U0010ffff"
    pieces = [everything[at : at + 5000] for at in range(0, len(everything), 5000)]
    frames = frames_of(
        "one key", [[wire.insert(TABLE, [str(at), piece, piece[:9]]) for at, piece in enumerate(pieces)]]
    )
    assert records_of(frames, True) == records_of(frames, False)


def test_rows_of_a_table_without_columns(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(SHAPES, "no column", [])
    frames = frames_of("no column", [[wire.insert(TABLE, [])] * 3])
    records = records_of(frames, True)
    assert records == records_of(frames, False)
    assert str(records).count('"before":null,"after":{},') == 3


def test_whole_rows_of_one_relation_are_taken_together():
    inner = [wire.insert(TABLE, ["1", "a", "b"]), wire.update(TABLE, ["1", None, "b"])]
    strange = wire.update(TABLE, ["1", wire.UNCHANGED, "b"])
    frames = [wire.xlog(m, 5) for m in (*inner, wire.insert(OTHER, ["1", "a", "b"]), *inner, strange, *inner)]
    rows = whole_rows.WholeRows(("id", "x", "y"), ("id",), b'{"key":', b"c", b"u", b"")
    taken: list[int] = []
    for at in range(len(frames)):
        records: list[Record] = []
        taken.append(rows.encode(frames, at, b"", b"", 1, records))
        assert len(records) == taken[-1]
    assert taken == [2, 1, 1, 2, 1, 0, 2, 1]
