"""Rows to the text format of COPY: every character arrives, NULL is not a text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.postgres.copy_text import copy_text

CELLS = (
    st.none()
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
    | st.sampled_from(["", "\\N", "\\.", "\t", "\n", "\r\n", "\\t", "t", "n", "N", "\\\\"])
)


def read_back(data: bytes) -> list[list[str | None]]:
    """As COPY FROM reads it (manual, COPY, "Text Format")."""
    escapes = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\"}

    def cell(raw: str) -> str | None:
        if raw == "\\N":
            return None
        out, characters = [], iter(raw)
        for character in characters:
            out.append(escapes[next(characters)] if character == "\\" else character)
        return "".join(out)

    assert data == b"" or data.endswith(b"\n")
    return [[cell(raw) for raw in line.split("\t")] for line in data.decode().split("\n")[:-1]]


@given(st.lists(st.lists(CELLS, min_size=3, max_size=3)))
def test_every_cell_arrives(rows: list[list[str | None]]):
    assert read_back(copy_text(rows)) == rows


@given(st.lists(st.lists(CELLS, min_size=3, max_size=3), min_size=1), st.data())
def test_a_cell_cannot_forge_a_cell_a_row_or_a_null(rows: list[list[str | None]], data: st.DataObject):
    row = data.draw(st.sampled_from(rows))
    place = data.draw(st.integers(0, 2))
    row[place] = data.draw(st.sampled_from(["\0", "\0t", "\0n", "\0N", "a\0tb\0", "\0\0n", "x\0n1\0t2\0t3"]))
    with pytest.raises(ValueError, match="NUL"):
        copy_text(rows)


@pytest.mark.parametrize("cell", [1, 1.5, True, [], ["a"], {}, {"a": "b"}, b"a"])
def test_only_text_is_text(cell: object):
    with pytest.raises(TypeError):
        copy_text([["a", cell, None]])  # type: ignore[list-item]


def test_no_rows_are_no_bytes():
    assert copy_text([]) == b""
