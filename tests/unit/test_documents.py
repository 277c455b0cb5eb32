"""What the documents refer to is there."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("cdc", "connectors", "docker", "ops", "tests")
DOCUMENTS = [ROOT / "README.md", ROOT / "cdc" / "ARCHITECTURE.md", *sorted((ROOT / "ops").rglob("*.md"))]
DOCUMENTS.append(ROOT / "tests" / "faults" / "README.md")
ENDINGS = ("md", "py", "sql", "json", "yaml", "toml", "xml", "service")
NOT_OURS = {"cdc.toml", "promotion-1.json"}
"""Files that an operator has, or another program."""
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]+)[^):]*\)")
QUOTED = re.compile(r"`([\w@./-]+)`")


@cache
def names() -> frozenset[str]:
    """Of all files of the project."""
    return frozenset(file.name for folder in FOLDERS for file in (ROOT / folder).rglob("*"))


def references(text: str) -> set[str]:
    """Every link, and whatever in backticks has the form of a path of ours."""
    text = FENCED.sub("", text)
    quoted = {path for path in QUOTED.findall(text) if is_path(path)}
    return quoted | set(LINK.findall(text))


def is_path(text: str) -> bool:
    if text.startswith("/") or text in NOT_OURS:
        return False
    inside = text.partition("/")[0] in FOLDERS and "/" in text
    return inside or (text.rpartition(".")[2] in ENDINGS and "." in text[1:])


def is_there(path: str, document: Path) -> bool:
    """From the root, or from beside the document; a bare name may be anywhere."""
    return (ROOT / path).exists() or (document.parent / path).exists() or ("/" not in path and path in names())


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_path_that_is_named_exists(document: Path):
    found = references(document.read_text())
    assert [path for path in sorted(found) if not is_there(path, document)] == []


def test_paths_are_found_and_missed():
    text = "see `ops/bench`, `tests/unit/no.py`, [a run](ops/gone.md#x), `cdc.toml`, `rows/s`, `0.1.0`, [net](https://x/y.md)"
    assert references(text) == {"ops/bench", "tests/unit/no.py", "ops/gone.md"}
    assert [path for path in references(text) if is_there(path, ROOT / "README.md")] == ["ops/bench"]


def test_every_reference_and_runbook_is_named_in_the_readme():
    readme = (ROOT / "README.md").read_text()
    documents = [*(ROOT / "ops" / "reference").glob("*.md"), *(ROOT / "ops" / "runbooks").glob("*.md")]
    assert [file.name for file in documents if str(file.relative_to(ROOT)) not in readme] == []
