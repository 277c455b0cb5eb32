"""The compiled way of a row gives the bytes that the interpreted one gives, and leaves to it what it does not know."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.errors import ProtocolError
from cdc.events.assembler import Assembler, Record
from cdc.log import envelope
from cdc.log.envelope import Envelope, finished
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


def records_of(frames: list[bytes], compiled: bool) -> list[Record] | str:
    """The records, or what is said of frames that have none."""
    with pytest.MonkeyPatch.context() as patch:
        if not compiled:
            patch.setattr(envelope, "WholeRows", None)
        assembler = Assembler(Envelope("shop", "shopdb", "0.1.0", 1), finished, TYPES, NOTHING, lambda: NOW_US)
        try:
            return assembler.feed(frames)
        except ProtocolError as error:
            return str(error)


@given(st.sampled_from(sorted(SHAPES)), st.lists(st.lists(messages, max_size=5), min_size=1, max_size=4))
def test_both_ways_give_the_same_records(shape: str, transactions: list[list[bytes]]):
    frames = frames_of(shape, transactions)
    assert records_of(frames, compiled=True) == records_of(frames, compiled=False)


@given(st.binary(min_size=1, max_size=30))
def test_bytes_that_are_no_text_are_refused_by_both_in_the_same_words(value: bytes):
    whole = wire.insert(TABLE, ["1", "x" * len(value), None])
    frames = frames_of("one key", [[wire.insert(TABLE, ["0", "", ""]), whole.replace(b"x" * len(value), value, 1)]])
    assert records_of(frames, compiled=True) == records_of(frames, compiled=False)


@given(st.integers(0, 200), st.integers(0, 255), st.booleans())
def test_damaged_rows_are_refused_by_both_in_the_same_words(at: int, byte: int, cut: bool):
    frames = frames_of("two keys", [[wire.insert(TABLE, ["text", "1", None]), wire.update(TABLE, ["", "2", "ä"])]])
    damaged = bytearray(frames[4])
    at = 26 + at % (len(damaged) - 26)
    damaged[at] = byte
    frames[4] = bytes(damaged[:at] if cut else damaged)
    assert records_of(frames, compiled=True) == records_of(frames, compiled=False)


@pytest.mark.parametrize("size", [2**16 - 100, 2**16, 2**20], ids=["largest", "too large", "huge"])
@pytest.mark.parametrize("character", ["a", '"', "\x1f", "é"], ids=["plain", "quote", "control", "two bytes"])
def test_large_values(size: int, character: str):
    text = character * (size // len(character.encode()))
    frames = frames_of("one key", [[wire.insert(TABLE, ["1", text, "b"]), wire.insert(TABLE, ["2", "a", text])]])
    assert records_of(frames, compiled=True) == records_of(frames, compiled=False)


def test_every_character_below_the_surrogates_and_some_above():
    everything = "".join(map(chr, range(0xD800))) + "\ue000\uffff\U0001f600\U0010ffff"
    pieces = [everything[at : at + 5000] for at in range(0, len(everything), 5000)]
    frames = frames_of(
        "one key", [[wire.insert(TABLE, [str(at), piece, piece[:9]]) for at, piece in enumerate(pieces)]]
    )
    assert records_of(frames, compiled=True) == records_of(frames, compiled=False)


def test_rows_of_a_table_without_columns(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(SHAPES, "no column", [])
    frames = frames_of("no column", [[wire.insert(TABLE, [])] * 3])
    records = records_of(frames, compiled=True)
    assert records == records_of(frames, compiled=False)
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
