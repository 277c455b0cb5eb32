"""A replication stream that is damaged, cut, out of order, or lies: a protocol error, and nothing else."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from struct import pack

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc.errors import LogError, ProtocolError
from cdc.events.assembler import Assembler, Record, Resume
from cdc.protocol import pgoutput
from cdc.protocol.frames import XLOG_HEADER_SIZE as AT
from cdc.protocol.frames import PrimaryKeepalive, xlog_start
from cdc.protocol.lsn import Lsn
from tests.support import wire
from tests.support.capture import NOTES, ORDERS, assembler, relation

NAMES = ("id", "note")
SECRET = "a-value-of-a-row"
MESSAGES = [
    wire.begin(200),
    wire.commit(200, 240),
    wire.origin(7, "other"),
    wire.type_name(16500, "public", "mood"),
    wire.relation(ORDERS, "public", "orders", "d", [("id", 20, -1, True), ("note", 25, -1, False)]),
    wire.relation(NOTES, "public", "notes", "f", [("id", 20, -1, True), ("note", 25, -1, True)]),
    wire.insert(ORDERS, ["1", SECRET]),
    wire.insert(ORDERS, ["1", wire.UNCHANGED]),
    wire.update(ORDERS, ["1", SECRET]),
    wire.update(ORDERS, ["1", wire.UNCHANGED]),
    wire.update(ORDERS, ["2", wire.UNCHANGED], key=["1", None]),
    wire.update(NOTES, ["2", SECRET], old=["1", SECRET]),
    wire.delete(ORDERS, key=["1", None]),
    wire.delete(NOTES, old=["1", SECRET]),
    wire.delete(ORDERS, key=[wire.UNCHANGED, None]),
    wire.truncate([ORDERS, NOTES], cascade=True),
    wire.truncate([]),
    wire.message(210, "prefix", b"\0\xff"),
    wire.message(250, "prefix", b"", transactional=False),
    b"A" + b"\0" * 8,
]
READERS: list[Callable[[bytes], object]] = [
    lambda frame: pgoutput.decode(frame, AT),
    lambda frame: pgoutput.decode_begin(frame, AT),
    lambda frame: pgoutput.decode_commit(frame, AT),
    lambda frame: pgoutput.decode_insert(frame, AT, NAMES),
    lambda frame: pgoutput.decode_update(frame, AT, NAMES),
    lambda frame: pgoutput.decode_delete(frame, AT, NAMES),
    pgoutput.row_head,
    xlog_start,
    PrimaryKeepalive.decode,
]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A message that was right once: cut, longer, with other bytes, or with a part of another one."""
    message = bytearray(draw(st.sampled_from(MESSAGES)))
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(message)))
        match draw(st.sampled_from(["cut", "byte", "insert", "splice", "huge"])):
            case "cut":
                del message[place:]
            case "byte" if place < len(message):
                message[place] = draw(st.integers(0, 255))
            case "insert":
                message[place:place] = draw(st.binary(max_size=6))
            case "splice":
                message[place:] = draw(st.sampled_from(MESSAGES))[place:]
            case _:
                message[place : place + 4] = b"\xff\xff\xff\xff"
    return bytes(message)


frames = st.one_of(
    st.sampled_from(MESSAGES).map(wire.xlog),
    damaged().map(wire.xlog),
    damaged().map(lambda message: wire.xlog(message)[: len(message)]),
    st.integers(0, 2**64 - 1).map(wire.keepalive),
    st.binary(max_size=40),
    st.binary(max_size=30).map(lambda noise: b"k" + noise),
)


@contextmanager
def refused_without_values() -> Iterator[None]:
    """All is well, or it is an error that quotes no value."""
    try:
        yield
    except (ProtocolError, LogError) as error:
        if SECRET in str(error):
            raise AssertionError("an error quotes a value") from error


def fed(capture: Assembler, stream: list[bytes], batch: int) -> Iterator[Record]:
    """What capture hands out of a stream that arrives in batches."""
    for first in range(0, len(stream), batch):
        yield from capture.feed(stream[first : first + batch])


@settings(max_examples=400)
@given(damaged() | st.binary(max_size=60))
def test_whatever_bytes_arrive_every_reader_answers_or_says_protocol_error(message: bytes):
    for frame in (wire.xlog(message), message):
        for read in READERS:
            with refused_without_values():
                read(frame)


@settings(max_examples=400)
@given(st.lists(frames, max_size=12), st.integers(1, 5), st.integers(0, 4))
def test_whatever_frames_arrive_in_whatever_order_capture_stops_or_publishes_json(
    stream: list[bytes], batch: int, known: int
):
    capture = assembler(Resume(Lsn(99), Lsn(100), Lsn(200 if known else 0), known))
    with refused_without_values():
        for key, value in fed(capture, stream, batch):
            orjson.loads(value)
            orjson.loads(key or b"null")


@pytest.mark.parametrize(
    "message",
    [
        pack(">cIB", b"T", 2**32 - 1, 0),
        pack(">cBQ", b"M", 1, 7) + b"prefix\0" + pack(">I", 2**32 - 1),
        pack(">cI", b"R", ORDERS) + b"public\0orders\0d" + pack(">H", 65535),
        pack(">cI", b"I", ORDERS) + b"N" + pack(">H", 2) + b"t" + pack(">I", 2**32 - 1) + b"1",
        pack(">cI", b"I", ORDERS) + b"N" + pack(">H", 65535),
    ],
)
def test_a_length_that_lies_takes_no_memory(message: bytes):
    tracemalloc.start()
    try:
        for read in READERS:
            with suppress(ProtocolError):
                read(wire.xlog(message))
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_whole_row_that_lacks_a_value_is_a_protocol_error():
    """Only the new row of an UPDATE may."""
    row: list[wire.Cell] = ["1", wire.UNCHANGED]
    with pytest.raises(ProtocolError, match="lacks a value"):
        pgoutput.decode_insert(wire.xlog(wire.insert(ORDERS, row)), AT, NAMES)
    with pytest.raises(ProtocolError, match="lacks a value"):
        pgoutput.decode_delete(wire.xlog(wire.delete(ORDERS, old=row)), AT, NAMES)
    with pytest.raises(ProtocolError, match="lacks a value"):
        pgoutput.decode_update(wire.xlog(wire.update(ORDERS, row, old=row)), AT, NAMES)


def test_a_relation_with_two_columns_of_one_name_is_a_protocol_error():
    columns = [("id", 20, -1, True), ("id", 25, -1, False)]
    with pytest.raises(ProtocolError):
        pgoutput.decode(wire.xlog(wire.relation(ORDERS, "public", "orders", "d", columns)), AT)


BEGIN, COMMIT, ROW = wire.begin(200), wire.commit(200, 240), wire.insert(ORDERS, ["1", "x"])


@pytest.mark.parametrize(
    "messages",
    [
        [ROW],
        [BEGIN, ROW, COMMIT, ROW],
        [BEGIN, ROW, COMMIT, ROW, wire.begin(300), wire.commit(300, 340)],
        [BEGIN, BEGIN],
        [COMMIT],
        [wire.commit(0, 40)],
        [wire.begin(0), ROW],
        [BEGIN, ROW, wire.commit(201, 240)],
        [BEGIN, ROW, COMMIT, COMMIT],
        [wire.truncate([ORDERS])],
        [wire.message(200, "p", b"")],
        [BEGIN, wire.message(200, "p", b"", transactional=False)],
        [BEGIN, wire.insert(77, ["1", "x"])],
        [BEGIN, wire.truncate([ORDERS, 77])],
        [wire.relation(77, "public", "t", "d", [("id", 99999, -1, True)])],
    ],
)
@pytest.mark.parametrize("batch", [1, 99])
def test_messages_out_of_order_are_protocol_errors_and_leave_no_record_of_it(messages: list[bytes], batch: int):
    taken: list[bytes] = []
    with pytest.raises(ProtocolError):
        taken.extend(value for _, value in fed(assembler(), [relation(), *map(wire.xlog, messages)], batch))
    assert sum(b'"op":"c"' in value for value in taken) <= 1


def test_an_empty_frame_is_a_protocol_error():
    with pytest.raises(ProtocolError):
        assembler().feed([relation(), b""])
