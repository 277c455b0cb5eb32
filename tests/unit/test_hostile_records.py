"""The end of a log that somebody else wrote to: capture goes on from what is right, or stops; no other exception."""

from __future__ import annotations

import json
from base64 import b64encode
from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc.errors import LogError
from cdc.log.parts import PartJoiner
from cdc.log.records import kind_of, parse, position_after, table_schema, truncation
from cdc.log.tail import TailScan
from tests.support import wire
from tests.support.capture import assembler, relation, transaction

SECRET = "a-value-of-a-row"
RECORDS = [
    value
    for _, value in assembler().feed(
        [
            relation(),
            *transaction(200, wire.insert(16400, ["1", SECRET]), wire.message(205, "p", SECRET.encode())),
            *transaction(300, wire.truncate([16400]), wire.delete(16400, key=["1", None])),
        ]
    )
]
NUMBERS: list[Any] = [None, True, False, 1.0, 0.5, "1", "", [], {}, -1, 2**70, 1e300, SECRET]
weird = st.sampled_from([*NUMBERS, 0, 1, 2**63, 2**64 - 1, "\0"])
anything = st.recursive(
    weird | st.text(max_size=5), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5
)


@st.composite
def spoilt(draw: st.DrawFn) -> bytes:
    """A record with some places that hold something else, or bytes that were one."""
    value = draw(st.sampled_from(RECORDS))
    event = json.loads(value)
    for _ in range(draw(st.integers(0, 3))):
        place: Any = draw(st.sampled_from([event, event["cdc"], event["source"], event.get("message") or event]))
        if isinstance(place, dict) and place:
            name = draw(st.sampled_from([*sorted(place), "kind", "last", "part", "parts", "seq"]))
            place[name] = draw(anything | st.sampled_from(["part", "epoch", "mark", "schema"]))
        if not isinstance(event.get("cdc"), dict) or not isinstance(event.get("source"), dict):
            break
    value = json.dumps(event).encode()
    if draw(st.integers(0, 4)) == 0:
        at = draw(st.integers(0, len(value)))
        value = value[:at] + draw(st.binary(max_size=4)) + value[at + draw(st.integers(0, 4)) :]
    return value


@settings(max_examples=300)
@given(st.lists(st.sampled_from(RECORDS) | spoilt() | st.binary(max_size=30), max_size=5))
def test_whatever_lies_at_the_end_of_the_log_a_reader_of_it_finds_an_end_or_stops(values: list[bytes]):
    scan = TailScan(len(values))
    told = ""
    try:
        for offset, value in enumerate(values):
            scan.add(offset, value)
    except LogError as error:
        told = str(error)
    assert SECRET not in told
    assert not told or "log offset" in told
    tail = scan.tail()
    assert tail is None or tail.end_lsn > tail.commit_lsn > 0 < tail.epoch


@pytest.mark.parametrize("number", NUMBERS, ids=repr)
@pytest.mark.parametrize("name", ["epoch", "commit_lsn", "prev", "seq", "end_lsn", "ts_us"])
def test_a_number_that_is_none_stops_the_reader_of_the_end(name: str, number: object):
    event = orjson.loads(RECORDS[-1])
    event["source" if name == "ts_us" else "cdc"][name] = number
    scan = TailScan(8)
    with pytest.raises(LogError, match="log offset 7: unknown record") as stopped:
        scan.add(7, json.dumps(event).encode())
    assert SECRET not in str(stopped.value)
    assert scan.tail() is None


def test_a_record_of_a_newer_version_stops_the_reader_of_the_end():
    event = orjson.loads(RECORDS[2])
    event["cdc"]["kind"] = "invented later"
    with pytest.raises(LogError, match="its kind is unknown to this version"):
        TailScan(1).add(0, orjson.dumps(event))


@settings(max_examples=300)
@given(
    st.lists(
        st.tuples(
            st.fixed_dictionaries({name: weird | st.integers(1, 3) for name in ("epoch", "commit_lsn", "seq")}),
            weird | st.integers(-1, 4),
            weird | st.integers(-1, 4),
            weird | st.sampled_from([b64encode(SECRET.encode()).decode(), "AA=", "%"]),
        ),
        max_size=6,
    )
)
def test_whatever_parts_come_they_are_joined_or_refused(parts: list[tuple[dict[str, Any], Any, Any, Any]]):
    joiner = PartJoiner()
    with suppress(LogError):
        for name, part, count, content in parts:
            joiner.add({**name, "part": part, "parts": count}, content)


@settings(max_examples=300)
@given(spoilt() | st.binary(max_size=40))
def test_whatever_a_record_is_each_reader_of_its_fields_answers_or_refuses(value: bytes):
    with suppress(LogError):
        event, meta = parse(value, 1)
        for read in (
            lambda: kind_of(event, meta),
            lambda: position_after(event, meta, 1),
            lambda: truncation(meta),
            lambda: table_schema(meta),
        ):
            with suppress(KeyError, TypeError, ValueError):
                read()


def test_the_records_that_are_spoilt_were_right():
    scan = TailScan(len(RECORDS))
    for offset, value in enumerate(RECORDS):
        scan.add(offset, value)
    tail = scan.tail()
    assert tail is not None
    assert (tail.epoch, tail.commit_lsn, tail.end_lsn, tail.next_offset) == (1, 300, 340, len(RECORDS))
