"""Rows to the text format of COPY: every character arrives, NULL is not a text."""

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


def test_no_rows_are_no_bytes():
    assert copy_text([]) == b""
