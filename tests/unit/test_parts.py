"""Records too large for the broker: cut and joined they are the same bytes, whatever is repeated or interrupted."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.errors import LogError
from cdc.log.parts import PartJoiner, Record, split_record


def large_record(content: str, commit_lsn: int = 500, seq: int = 3) -> Record:
    value = {
        "op": "c",
        "source": {"name": "shop", "db": "shop"},
        "ts_ms": 1,
        "transaction": {"id": "7:500", "total_order": seq},
        "before": None,
        "after": {"id": "1", "note": content},
        "cdc": {
            "epoch": 1,
            "commit_lsn": commit_lsn,
            "prev": 400,
            "seq": seq,
            "rel": "abc",
            "last": True,
            "end_lsn": 9,
        },
    }
    return b'{"key":1}', orjson.dumps(value)


def parts_of(record: Record, limit: int) -> list[tuple[dict[str, Any], str]]:
    events = [orjson.loads(value) for _, value in split_record(record, limit)]
    return [(event["cdc"], event["message"]["content"]) for event in events]


@given(st.text(min_size=2000, max_size=20_000), st.integers(1200, 1999))
def test_joined_parts_are_the_record_and_each_fits(content: str, limit: int) -> None:
    record = large_record(content)
    records = list(split_record(record, limit))
    assert all(key == record[0] and len(value) + len(key or b"") <= limit for key, value in records)
    joiner = PartJoiner()
    results = [joiner.add(cdc, content) for cdc, content in parts_of(record, limit)]
    assert results[:-1] == [None] * (len(records) - 1)
    assert results[-1] == record[1]
    assert not joiner.pending


def test_a_record_that_fits_stays_one() -> None:
    record = large_record("x")
    assert list(split_record(record, len(record[0] or b"") + len(record[1]))) == [record]


def test_parts_say_which_record_they_belong_to() -> None:
    first = parts_of(large_record("x" * 9000), 2000)[0][0]
    assert first["kind"] == "part"
    assert (first["epoch"], first["commit_lsn"], first["seq"], first["part"]) == (1, 500, 3, 1)


def test_a_limit_without_room_for_content_is_refused() -> None:
    with pytest.raises(LogError, match="too small"):
        list(split_record(large_record("x" * 9000), 400))


def test_a_description_of_a_relation_is_not_cut() -> None:
    value = orjson.dumps({"source": {}, "ts_ms": 1, "transaction": None, "cdc": {"kind": "schema", "x": "y" * 3000}})
    with pytest.raises(LogError, match="description"):
        list(split_record((None, value), 1500))


def test_repeated_parts_are_ignored() -> None:
    record = large_record("x" * 9000)
    parts = parts_of(record, 2000)
    joiner = PartJoiner()
    results = [joiner.add(*part) for part in [*parts[:3], *parts[:2], *parts[1:], *parts, parts[-1]]]
    assert [result for result in results if result is not None] == [record[1]]


@pytest.mark.parametrize("kept", range(1, 5))
@pytest.mark.parametrize(("before", "after"), [(2050, 2100), (2100, 2050)])
def test_parts_of_an_interrupted_publisher_are_not_joined_with_those_of_another_cut(kept: int, before: int, after: int):
    # Given a limit that was changed while a record was on its way, and as many parts by both.
    record = large_record("".join(f"{number:06}" for number in range(1000)))
    interrupted, whole = parts_of(record, before), parts_of(record, after)
    assert len(interrupted) == len(whole) > 4
    # When the record is published again.
    joiner = PartJoiner()
    results = [joiner.add(*part) for part in [*interrupted[:kept], *whole]]
    # Then it is the same record.
    assert results == [None] * (kept + len(whole) - 1) + [record[1]]


def test_parts_of_an_interrupted_publisher_are_not_joined_with_those_of_a_longer_record():
    # Given a publisher that writes a longer version into the same record.
    older = large_record("x" * 9000)
    newer = older[0], older[1].replace(b'"shop"', b'"shop "', 1)
    for limit in range(2000, 2100):
        first, whole = parts_of(older, limit), parts_of(newer, limit)
        joiner = PartJoiner()
        results = [joiner.add(*part) for part in [*first[:2], *whole]]
        assert results[-1] == newer[1]


def test_late_parts_of_another_cut_are_ignored():
    # Given an interrupted publisher whose last parts arrive among those of the next one, who cuts otherwise.
    record = large_record("".join(f"{number:06}" for number in range(1000)))
    late, parts = parts_of(record, 2050), parts_of(record, 2100)
    for before in range(1, len(parts)):
        for first in range(1, len(late)):
            joiner = PartJoiner()
            come = [*late[:first], *parts[:before], *late[first:], *parts[before:]]
            assert [value for value in (joiner.add(*part) for part in come) if value] == [record[1]]


def test_an_interrupted_record_gives_way_to_a_newer_one() -> None:
    newer = large_record("y" * 9000, commit_lsn=600)
    joiner = PartJoiner()
    joiner.add(*parts_of(large_record("x" * 9000), 2000)[0])
    results = [joiner.add(*part) for part in parts_of(newer, 2000)]
    assert results[-1] == newer[1]


def test_a_late_part_of_an_older_record_is_ignored() -> None:
    older, newer = parts_of(large_record("x" * 9000), 2000), large_record("y" * 9000, commit_lsn=600)
    parts = parts_of(newer, 2000)
    joiner = PartJoiner()
    results = [joiner.add(*part) for part in [parts[0], older[2], *parts[1:]]]
    assert results[-1] == newer[1]


@pytest.mark.parametrize("skipped", [0, 1])
def test_a_missing_part_is_an_error(skipped: int) -> None:
    parts = parts_of(large_record("x" * 9000), 2000)
    joiner = PartJoiner()
    for part in parts[:skipped]:
        joiner.add(*part)
    with pytest.raises(LogError, match="follows part"):
        joiner.add(*parts[skipped + 1])


@pytest.mark.parametrize(
    ("cdc", "content"),
    [({}, ""), ({"epoch": 1, "commit_lsn": 1, "seq": 1, "part": 1, "parts": 2}, "not base64!")],
)
def test_a_malformed_part_is_an_error(cdc: dict[str, Any], content: str) -> None:
    with pytest.raises(LogError, match="malformed"):
        PartJoiner().add(cdc, content)


def test_parts_that_would_fill_the_memory_are_an_error_and_are_let_go() -> None:
    record = large_record("x" * 9000)
    parts = parts_of(record, 2000)
    exact, less = PartJoiner(len(record[1])), PartJoiner(len(record[1]) - 1)
    assert [exact.add(*part) for part in parts][-1] == record[1]
    for part in parts[:-1]:
        less.add(*part)
    with pytest.raises(LogError, match=f"more than {len(record[1]) - 1} bytes"):
        less.add(*parts[-1])
    assert not less.pending


def test_the_bound_is_of_one_record_not_of_all() -> None:
    records = [large_record("x" * 9000, commit_lsn) for commit_lsn in (500, 600, 700)]
    joiner = PartJoiner(len(records[0][1]) + 1000)
    joined = [joiner.add(*part) for record in records for part in parts_of(record, 2000)]
    assert [value for value in joined if value is not None] == [value for _, value in records]
