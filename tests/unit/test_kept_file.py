"""A file with rows that no node will hold: for its owner only, whole or not there, and in no other file's place."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cdc.errors import CheckError
from cdc.services.kept_file import kept


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tail.jsonl"


def write(file: Path, text: bytes, meanwhile: Callable[[], object] = lambda: None) -> None:
    with kept(file) as out:
        out.write(text)
        meanwhile()


def test_only_its_owner_reads_it_also_where_a_run_was_killed(file: Path):
    left = file.with_name("tail.jsonl.partial")
    left.write_bytes(b"half of a longer one")
    left.chmod(0o644)
    umask = os.umask(0)
    try:
        with kept(file) as out:
            out.write(b"rows")
            assert left.stat().st_mode & 0o777 == 0o600
            assert not file.exists()
    finally:
        os.umask(umask)
    assert (file.read_bytes(), file.stat().st_mode & 0o777) == (b"rows", 0o600)
    assert list(file.parent.iterdir()) == [file]


def test_a_file_that_was_made_meanwhile_stays(file: Path):
    with pytest.raises(CheckError, match=r"tail\.jsonl: the file exists.*--file"):
        write(file, b"rows", meanwhile=lambda: file.write_bytes(b"mine"))
    assert file.read_bytes() == b"mine"
    assert list(file.parent.iterdir()) == [file]


def test_one_that_holds_the_same_is_right(file: Path):
    write(file, b"rows")
    write(file, b"rows")
    assert file.read_bytes() == b"rows"


def test_nothing_written_and_an_error_leave_no_file(file: Path):
    write(file, b"")
    with pytest.raises(ZeroDivisionError):
        write(file, b"half", meanwhile=lambda: 1 // 0)
    assert list(file.parent.iterdir()) == []


@pytest.mark.parametrize("where", ["missing/tail.jsonl", "taken/tail.jsonl", "x" * 300])
def test_what_cannot_be_written_is_said(tmp_path: Path, where: str):
    (tmp_path / "taken").write_bytes(b"no folder")
    with pytest.raises(CheckError, match=r"the file cannot be written: .*--file"):
        write(tmp_path / where, b"rows")
