"""Bytes of pgoutput to values: round trips through an encoder, and nothing but ProtocolError for bad bytes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.errors import ProtocolError
from cdc.protocol import pgoutput
from cdc.protocol.frames import (
    PG_EPOCH_US,
    XLOG_HEADER_SIZE,
    PrimaryKeepalive,
    StandbyStatusUpdate,
    xlog_sent_at,
    xlog_start,
)
from tests.support import wire

AT = XLOG_HEADER_SIZE
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
whole_cells = st.one_of(st.none(), texts)
cells = st.one_of(whole_cells, st.just(wire.UNCHANGED))
lsns = st.integers(1, 2**64 - 1)
oids = st.integers(1, 2**32 - 1)
times = st.integers(PG_EPOCH_US - 2**62, PG_EPOCH_US + 2**62)


@st.composite
def rows(draw: st.DrawFn, *kinds: st.SearchStrategy[wire.Cell]) -> tuple[tuple[str, ...], list[list[wire.Cell]]]:
    """Column names, and a row for them of each kind of cells."""
    names = draw(st.lists(texts, unique=True, max_size=8))
    return tuple(names), [draw(st.lists(kind, min_size=len(names), max_size=len(names))) for kind in kinds]


def decoded(names: tuple[str, ...], row: list[wire.Cell]) -> pgoutput.Row:
    return wire.row_of(dict(zip(names, row, strict=True)))


class TestRows:
    @given(rows(whole_cells), oids, lsns)
    def test_an_insert_comes_out_as_it_went_in(
        self, table: tuple[tuple[str, ...], list[list[wire.Cell]]], oid: int, lsn: int
    ) -> None:
        names, (new,) = table
        frame = wire.xlog(wire.insert(oid, new), lsn, PG_EPOCH_US + oid)
        assert pgoutput.row_head(frame) == (lsn, oid)
        assert (xlog_start(frame), xlog_sent_at(frame)) == (lsn, PG_EPOCH_US + oid)
        assert pgoutput.decode_insert(frame, AT, names) == decoded(names, new)

    @given(rows(whole_cells, cells), st.sampled_from("-KO"))
    def test_an_update_keeps_old_and_new_row_apart(
        self, table: tuple[tuple[str, ...], list[list[wire.Cell]]], old_kind: str
    ) -> None:
        names, (before, new) = table
        frame = wire.xlog(
            wire.update(1, new, key=before if old_kind == "K" else None, old=before if old_kind == "O" else None)
        )
        kind, old, row = pgoutput.decode_update(frame, AT, names)
        assert row == decoded(names, new)
        assert old == (None if old_kind == "-" else decoded(names, before))
        assert kind == {"-": pgoutput.NO_OLD, "K": pgoutput.OLD_KEY, "O": pgoutput.OLD_ROW}[old_kind]

    @given(rows(whole_cells), st.booleans())
    def test_a_delete_tells_key_from_row(
        self, table: tuple[tuple[str, ...], list[list[wire.Cell]]], key_only: bool
    ) -> None:
        names, (old,) = table
        frame = wire.xlog(wire.delete(1, key=old) if key_only else wire.delete(1, old=old))
        kind, row = pgoutput.decode_delete(frame, AT, names)
        assert (kind == pgoutput.OLD_KEY) is key_only
        assert row == decoded(names, old)

    def test_null_empty_and_not_sent_are_three_things(self) -> None:
        frame = wire.xlog(wire.update(1, [None, "", wire.UNCHANGED]))
        _, _, row = pgoutput.decode_update(frame, AT, ("null", "empty", "unsent"))
        assert row == {"null": None, "empty": ""}

    @pytest.mark.parametrize("names", [("a",), ("a", "b", "c")])
    def test_another_number_of_columns_than_the_relation_has_is_refused(self, names: tuple[str, ...]) -> None:
        with pytest.raises(ProtocolError, match="columns, the relation has"):
            pgoutput.decode_insert(wire.xlog(wire.insert(1, ["1", "2"])), AT, names)

    def test_text_that_is_not_utf8_is_refused_without_being_shown(self) -> None:
        frame = wire.xlog(wire.insert(1, ["secret"])).replace(b"secret", b"secre\xff")
        with pytest.raises(ProtocolError, match="not UTF-8") as caught:
            pgoutput.decode_insert(frame, AT, ("a",))
        assert "secre" not in str(caught.value)

    @given(rows(whole_cells, cells), st.data())
    def test_a_cut_row_is_a_protocol_error(
        self, table: tuple[tuple[str, ...], list[list[wire.Cell]]], data: st.DataObject
    ) -> None:
        names, (before, new) = table
        messages: list[tuple[Callable[[bytes, int, tuple[str, ...]], object], bytes]] = [
            (pgoutput.decode_insert, wire.insert(1, new)),
            (pgoutput.decode_update, wire.update(1, new, old=before)),
            (pgoutput.decode_delete, wire.delete(1, old=before)),
        ]
        read, message = data.draw(st.sampled_from(messages))
        cut = data.draw(st.integers(0, len(message) - 1))
        with pytest.raises(ProtocolError):
            read(wire.xlog(message[:cut]), AT, names)

    @given(st.binary(max_size=80), st.lists(texts, unique=True, max_size=4))
    def test_noise_is_a_row_or_a_protocol_error(self, noise: bytes, names: list[str]) -> None:
        frame = wire.xlog(noise)
        for read in (pgoutput.decode_insert, pgoutput.decode_update, pgoutput.decode_delete):
            with suppress(ProtocolError):
                read(frame, AT, tuple(names))


class TestTransactions:
    @given(lsns, times, oids)
    def test_begin(self, commit_lsn: int, committed_at_us: int, xid: int) -> None:
        frame = wire.xlog(wire.begin(commit_lsn, committed_at_us, xid))
        assert pgoutput.decode_begin(frame, AT) == (commit_lsn, committed_at_us, xid)

    @given(lsns, lsns, times)
    def test_commit(self, commit_lsn: int, end_lsn: int, committed_at_us: int) -> None:
        frame = wire.xlog(wire.commit(commit_lsn, end_lsn, committed_at_us))
        assert pgoutput.decode_commit(frame, AT) == (commit_lsn, end_lsn, committed_at_us)

    @given(st.integers(0, 20))
    def test_cut_ones_are_protocol_errors(self, size: int) -> None:
        with pytest.raises(ProtocolError):
            pgoutput.decode_begin(wire.xlog(wire.begin(1)[:size]), AT)
        with pytest.raises(ProtocolError):
            pgoutput.decode_commit(wire.xlog(wire.commit(1, 2)[:size]), AT)


MESSAGES = [
    (wire.origin(7, "other"), pgoutput.Origin(7, "other")),  # type: ignore[arg-type]
    (wire.type_name(16500, "public", "mood"), pgoutput.TypeName(16500, "public", "mood")),
    (wire.type_name(16500, "", "int4"), pgoutput.TypeName(16500, "pg_catalog", "int4")),
    (
        wire.relation(16400, "public", "Füße", "f", [("a", 23, -1, True), ("b", 25, 12, False)]),
        pgoutput.Relation(
            16400,
            "public",
            "Füße",
            "f",
            (pgoutput.RelationColumn("a", 23, -1, True), pgoutput.RelationColumn("b", 25, 12, False)),
        ),
    ),
    (wire.truncate([1, 2], cascade=True), pgoutput.Truncate((1, 2), cascade=True, restart_identity=False)),
    (wire.truncate([3], restart_identity=True), pgoutput.Truncate((3,), cascade=False, restart_identity=True)),
    (wire.message(9, "p", b"\0\xff"), pgoutput.LogicalMessage(True, 9, "p", b"\0\xff")),  # type: ignore[arg-type]
    (wire.message(9, "p", b"", False), pgoutput.LogicalMessage(False, 9, "p", b"")),  # type: ignore[arg-type]
]


class TestOtherMessages:
    @pytest.mark.parametrize(("message", "meaning"), MESSAGES)
    def test_each_comes_out_as_it_went_in(self, message: bytes, meaning: pgoutput.Message) -> None:
        assert pgoutput.decode(wire.xlog(message), AT) == meaning

    @pytest.mark.parametrize("message", [message for message, _ in MESSAGES])
    def test_cut_or_longer_ones_are_protocol_errors(self, message: bytes) -> None:
        for size in range(len(message)):
            with pytest.raises(ProtocolError):
                pgoutput.decode(wire.xlog(message[:size]), AT)

    @pytest.mark.parametrize("kind", [b"S", b"E", b"c", b"b", b"z", b"\0"])
    def test_messages_of_later_protocol_versions_are_refused(self, kind: bytes) -> None:
        with pytest.raises(ProtocolError, match="unknown"):
            pgoutput.decode(wire.xlog(kind + b"\0" * 20), AT)

    def test_a_stray_stream_abort_means_nothing(self) -> None:
        assert pgoutput.decode(wire.xlog(b"A" + b"\0" * 8), AT) == pgoutput.StreamAbort()

    @given(st.binary(max_size=60))
    def test_noise_is_a_message_or_a_protocol_error(self, noise: bytes) -> None:
        with suppress(ProtocolError):
            pgoutput.decode(wire.xlog(noise), AT)


class TestFrames:
    @given(lsns, times, st.booleans())
    def test_keepalive(self, end_lsn: int, sent_at_us: int, reply: bool) -> None:
        frame = wire.keepalive(end_lsn, reply, sent_at_us)
        assert PrimaryKeepalive.decode(frame) == PrimaryKeepalive(end_lsn, sent_at_us, reply)  # type: ignore[arg-type]

    @given(st.binary(max_size=30).filter(lambda frame: len(frame) != 18))
    def test_a_malformed_keepalive_is_a_protocol_error(self, frame: bytes) -> None:
        with pytest.raises(ProtocolError):
            PrimaryKeepalive.decode(b"k" + frame[1:])

    def test_status(self) -> None:
        frame = StandbyStatusUpdate(3, 2, 1, PG_EPOCH_US + 5, reply_requested=True).encode()
        assert frame == b"r" + b"".join(n.to_bytes(8, "big") for n in (3, 2, 1, 5)) + b"\1"

    def test_a_header_that_is_cut_is_a_protocol_error(self) -> None:
        with pytest.raises(ProtocolError):
            xlog_start(b"w" + b"\0" * 10)
        with pytest.raises(ProtocolError):
            pgoutput.row_head(b"w" + b"\0" * 27)
