"""HOT PATH: rows in the text format of COPY to one array a column (PostgreSQL manual, "Array Input and Output Syntax").

Values that need no escape in COPY need none in an array where each stands between quotes, but for the quotes.
"""

from __future__ import annotations


def array_texts(rows: bytes, width: int) -> list[bytes]:
    """The values of each of `width` columns as the text of an array."""
    cells = rows.replace(b"\n", b"\t").split(b"\t")
    cells.pop()  # what is after the last row: nothing
    return [_array(cells[first::width]) for first in range(width)]


def _array(cells: list[bytes]) -> bytes:
    text = b"\t".join(cells)
    is_escaped = b"\\" in text
    text = b'{"%b"}' % text.replace(b'"', b'\\"').replace(b"\t", b'","')
    return _unescaped(text) if is_escaped else text


def _unescaped(text: bytes) -> bytes:
    """Without what only COPY escapes. A backslash that stands for itself is NUL meanwhile, which no value holds."""
    text = text.replace(b'"\\N"', b"NULL").replace(b"\\\\", b"\0")
    return text.replace(b"\\t", b"\t").replace(b"\\n", b"\n").replace(b"\\r", b"\r").replace(b"\0", b"\\\\")
