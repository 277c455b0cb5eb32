"""What was compiled is used while it is that of the sources beside it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

change_reader = pytest.importorskip("cdc.log.change_reader", reason="cdc.log.change_reader is not compiled here")


def how_rows_pass(root: Path) -> str:
    return told(
        root, "from cdc.log.compiled import ChangeReader, HOW_ROWS_PASS; print(ChangeReader is None, HOW_ROWS_PASS)"
    )


def told(root: Path, code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip()


@pytest.fixture
def log_folder(tmp_path: Path) -> Path:
    """Of a copy of the project, compiled just now."""
    beside = Path(change_reader.__file__).parents[2]
    for package in ("cdc", "connectors"):
        shutil.copytree(beside / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    folder = tmp_path / "cdc" / "log"
    for module in tmp_path.rglob("*.so"):
        os.utime(module, (time.time() + 1, time.time() + 1))
    return folder


def test_what_was_compiled_from_these_sources_is_used(log_folder: Path):
    assert how_rows_pass(log_folder.parents[1]) == "False compiled"


@pytest.mark.parametrize("source", ["change_reader.pyx", "whole_rows.pyx", "json_bytes.pxd"])
def test_what_is_older_than_a_source_is_not_used(log_folder: Path, source: str):
    later = time.time() + 10
    os.utime(log_folder / source, (later, later))
    assert how_rows_pass(log_folder.parents[1]).startswith("True interpreted, which is slower: run ops/compile.py")


def test_an_installation_without_a_compiler_says_so(log_folder: Path):
    for module in log_folder.glob("*.so"):
        module.unlink()
    assert how_rows_pass(log_folder.parents[1]) == "True interpreted, which is slower: install where a C compiler is"


def test_an_installation_has_no_sources_and_uses_what_came_with_it(log_folder: Path):
    for source in (*log_folder.glob("*.pyx"), *log_folder.glob("*.pxd")):
        source.unlink()
    assert how_rows_pass(log_folder.parents[1]) == "False compiled"


def test_a_reader_of_copies_that_is_older_than_its_source_is_not_used(log_folder: Path):
    root = log_folder.parents[1]
    code = "from connectors.postgres.copy_data import _compiled_read; print(_compiled_read() is None)"
    assert told(root, code) == "False"
    later = time.time() + 10
    os.utime(root / "connectors" / "postgres" / "copy_reader.pyx", (later, later))
    assert told(root, code) == "True"
