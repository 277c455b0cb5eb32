"""The compiled way of a run gives the lines that the interpreted one gives, and leaves to it what it does not know."""

from __future__ import annotations

from operator import itemgetter
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from connectors.postgres.copy_text import copy_text
from tests.unit.test_runs import COLUMNS, FIRST, OTHERS, ROW, inserts, rows, run_of, updates

pytest.importorskip("cdc.log.run_lines", reason="cdc.log.run_lines is not compiled here")

KEYS: list[tuple[str, ...]] = [("id",), ("100%d", "id"), ()]


def read(first: bytes, others: list[bytes | None], key: tuple[str, ...] = ()) -> tuple[list[bytes], list[Any], int]:
    lines: list[bytes] = []
    keys: list[Any] = []
    compiled = run_of(first).lines(key)
    assert compiled is not None
    size = compiled.read(others, FIRST + 1, lines, keys)
    return lines, keys, size


@given(st.lists(rows, min_size=2), st.sampled_from([inserts, updates]), st.sampled_from(KEYS))
@example([ROW, {**ROW, "id": "\\", "100%d": "\\n\t\\\\\n\r\b\f\x1f\x7fü\U0001f600\\."}], inserts, ("100%d", "id"))
@example([ROW, {**ROW, "id": "\\N"}, {**ROW, "id": "12345678\\"}], updates, ("id",))
def test_both_ways_give_the_same_lines(given: list[dict[str, str | None]], write: Any, key: tuple[str, ...]):
    first, *others = write(*given)
    lines, keys, size = read(first, others, key)
    taken = len(lines)
    assert b"".join(lines) == copy_text(row.values() for row in given[1 : 1 + taken])
    assert keys == [itemgetter(*key)(row) for row in given[1 : 1 + taken] if key]
    assert size == sum(map(len, others[:taken]))
    if taken < len(others):
        assert None in [given[1 + taken][name] for name in key]


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_it_ends_before_what_is_not_of_the_run(other: bytes | None):
    first, second, third = inserts(ROW, ROW, ROW)
    assert read(first, [other, second]) == ([], [], 0)
    assert read(first, [second, other, third])[0] == [b"7\tnew\t\\N\n"]


def test_numbers_get_longer():
    values = inserts(*[ROW] * 3, first=9)
    compiled = run_of(values[0]).lines(())
    assert compiled is not None
    lines: list[bytes] = []
    compiled.read(values[1:], 10, lines, [])
    assert len(lines) == 2


@pytest.mark.parametrize(
    "text", [b"\\u0000", b"\\u0041", b"\\ud83d\\ude00", b"\\/", b"\\x", b"\xff", b"\xed\xa0\x80", b"\0", b"\n"]
)
def test_what_capture_does_not_write_is_left_to_whoever_reads_it_one_by_one(text: bytes):
    first, second = inserts(ROW, ROW)
    assert read(first, [second.replace(b"new", b"new" + text)]) == ([], [], 0)
    assert len(read(first, [second])[0]) == 1


@given(st.data())
def test_of_a_damaged_record_nothing_is_taken_that_the_interpreted_way_would_not_take(data: st.DataObject):
    row = {**ROW, "id": data.draw(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))}
    first, second = inserts(ROW, row)
    where = data.draw(st.integers(0, len(second) - 1))
    piece = data.draw(st.sampled_from([b"", b'"', b"\\", b"0", b",", b"\xc3"]) | st.binary(max_size=2))
    changed = second[:where] + piece + second[where + data.draw(st.integers(0, 2)) :]
    lines, _, _ = read(first, [changed])
    if lines:
        taken, _ = run_of(first).rows([changed], FIRST + 1)
        assert lines == [copy_text([[taken[0][name] for name in COLUMNS]])]
        assert orjson.loads(changed)["after"] == taken[0]


@given(st.integers(0, 700))
def test_a_record_that_is_cut_is_not_taken(size: int):
    first, second = inserts(ROW, ROW)
    assert bool(read(first, [second[:size]])[0]) == (size >= len(second))
