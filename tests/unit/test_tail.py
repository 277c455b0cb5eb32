"""The end of the log: the newest complete transaction, whatever lies after it."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from cdc.errors import LogError
from cdc.log.envelope import Finisher
from cdc.log.parts import split_record
from cdc.log.tail import LogTail, TailScan


def record(commit_lsn: int, seq: int, last: bool = False, epoch: int = 1, note: str = "") -> bytes:
    cdc: dict[str, Any] = {"epoch": epoch, "commit_lsn": commit_lsn, "prev": 1, "seq": seq}
    if last:
        cdc |= {"last": True, "end_lsn": commit_lsn + 40}
    source = {"ts_us": commit_lsn * 1000}
    return orjson.dumps({"op": "c", "source": source, "ts_ms": 1, "transaction": None, "note": note, "cdc": cdc})


def schema(commit_lsn: int) -> bytes:
    return orjson.dumps(
        {"op": "m", "source": {"ts_us": 1}, "cdc": {"kind": "schema", "epoch": 1, "commit_lsn": commit_lsn}}
    )


def mark(commit_lsn: int) -> bytes:
    cdc = {"kind": "mark", "epoch": 1, "commit_lsn": commit_lsn, "prev": 1, "seq": 1, "last": True}
    cdc |= {"end_lsn": commit_lsn + 1}
    return orjson.dumps({"op": "m", "source": {"ts_us": 1}, "cdc": cdc})


def epoch_record(epoch: int, commit_lsn: int, leader: str) -> bytes:
    cdc = {"kind": "epoch", "epoch": epoch, "commit_lsn": commit_lsn, "prev": 1, "seq": 1, "prev_epoch": epoch - 1}
    cdc |= {"leader": leader, "last": True, "end_lsn": commit_lsn + 1}
    return orjson.dumps({"op": "m", "source": {"ts_us": 1}, "cdc": cdc})


def scanned(*values: bytes, first_offset: int = 10) -> LogTail | None:
    scan = TailScan(first_offset + len(values))
    for offset, value in enumerate(values, first_offset):
        scan.add(offset, value)
    return scan.tail()


def names(tail: LogTail | None) -> tuple[int, int, int, int, int]:
    assert tail is not None
    return tail.epoch, tail.commit_lsn, tail.next_offset, tail.partial_commit_lsn, tail.partial_seq


def test_a_complete_transaction_at_the_end() -> None:
    tail = scanned(record(200, 1), record(200, 2, last=True))
    assert tail == LogTail(1, 200, 240, 200_000, 12, 12, 0, 0, "", 200)  # type: ignore[arg-type]


def test_a_mark_at_the_end_is_not_taken_for_a_transaction_of_the_leader() -> None:
    tail = scanned(record(200, 1, last=True), mark(300))
    assert tail is not None
    assert (tail.commit_lsn, tail.streamed_commit_lsn) == (300, 200)


def test_the_beginning_of_a_transaction_after_it() -> None:
    assert names(scanned(record(200, 1, True), schema(300), record(300, 1), record(300, 2))) == (1, 200, 11, 300, 2)


def test_no_transaction_ends_here() -> None:
    assert scanned(record(200, 5), record(200, 6)) is None


def test_repeats_do_not_move_it_back() -> None:
    values = [record(200, 1, True), record(300, 1), record(300, 2, True), record(200, 1, True), record(300, 1)]
    assert names(scanned(*values)) == (1, 300, 13, 0, 0)


def test_an_older_epoch_after_a_newer_one_is_void() -> None:
    assert names(scanned(record(900, 1, True), record(300, 1, True, epoch=2), record(950, 1, True))) == (
        2,
        300,
        12,
        0,
        0,
    )


def test_an_epoch_record_says_who_leads() -> None:
    tail = scanned(record(900, 1, True), epoch_record(2, 300, "eu-west"))
    assert names(tail) == (2, 300, 12, 0, 0)
    assert tail is not None
    assert tail.leader == "eu-west"


def test_the_final_record_of_every_transaction_says_who_leads() -> None:
    # Far behind the epoch record, nothing else says it.
    _, last = Finisher("eu-west")((None, record(200, 1)), 240)
    tail = scanned(last)
    assert tail is not None
    assert tail.leader == "eu-west"


def test_the_second_claim_of_an_epoch_is_void() -> None:
    tail = scanned(record(900, 1, True), epoch_record(2, 300, "eu-west"), epoch_record(2, 7000, "ap-south"))
    assert tail is not None
    assert (tail.commit_lsn, tail.leader) == (300, "eu-west")


def test_an_epoch_record_at_the_very_beginning_of_a_window_may_be_a_second_claim() -> None:
    values = [epoch_record(2, 7000, "ap-south"), record(400, 1, True, epoch=2)]
    assert names(scanned(*values)) == (2, 400, 12, 0, 0)
    assert scanned(values[0]) is None
    whole = TailScan(1)
    whole.begin(whole=True)
    whole.add(0, values[0])
    assert names(whole.tail()) == (2, 7000, 1, 0, 0)


def test_a_transaction_that_ends_in_parts() -> None:
    parts = [value for _, value in split_record((None, record(300, 1, True, note="x" * 5000)), 2000)]
    assert names(scanned(record(200, 1, True), *parts)) == (1, 300, 11 + len(parts), 0, 0)
    assert names(scanned(record(200, 1, True), *parts[:-1])) == (1, 200, 11, 0, 0)


def test_a_window_that_begins_among_parts() -> None:
    parts = [value for _, value in split_record((None, record(300, 1, True, note="x" * 5000)), 2000)]
    assert scanned(*parts[1:]) is None
    assert names(scanned(*parts[1:], record(400, 1, True)))[1] == 400


def test_a_larger_window_starts_afresh() -> None:
    scan = TailScan(3)
    scan.add(2, record(300, 1))
    scan.begin()
    for offset, value in enumerate([record(200, 1, True), record(250, 1, True), record(300, 1)]):
        scan.add(offset, value)
    assert names(scan.tail()) == (1, 250, 2, 300, 1)


@pytest.mark.parametrize(
    "value", [b"", b"no json", b"[]", b"{}", b'{"cdc": {}}', b'{"cdc": {"epoch": 1}}', b'{"cdc": 1}']
)
def test_a_foreign_record_is_an_error_that_names_its_offset(value: bytes) -> None:
    with pytest.raises(LogError, match="10"):
        scanned(value)
