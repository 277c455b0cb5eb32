"""HOT PATH: rows in the text format of COPY to one array a column (PostgreSQL manual, "Array Input and Output Syntax").

Values that need no escape in COPY need none in an array where each stands between quotes, but for the quotes.
"""

from __future__ import annotations

import re

_ESCAPED = re.compile(rb'\\.|"')
_MEANS = {b"\\\\": b"\\\\", b"\\t": b"\t", b"\\n": b"\n", b"\\r": b"\r", b'"': b'\\"'}
"""Of what `copy_text` escapes, and whoever writes such lines, a backslash is the same in both."""


def array_texts(rows: bytes, width: int) -> list[bytes]:
    """The values of each of `width` columns as the text of an array.

    Raises KeyError for an escape that nobody of us writes.
    """
    cells = rows.replace(b"\n", b"\t").split(b"\t")
    cells.pop()  # what is after the last row: nothing
    return [_array(cells[first::width]) for first in range(width)]


def _array(cells: list[bytes]) -> bytes:
    text = b'{"%b"}' % b'","'.join(cells)
    if text.count(b'"') == 2 * len(cells):
        text = text.replace(b'"\\N"', b"NULL")
        if b"\\" not in text:
            return text
    return b"{%b}" % b",".join(map(_element, cells))


def _element(cell: bytes) -> bytes:
    if cell == b"\\N":
        return b"NULL"
    return b'"%b"' % _ESCAPED.sub(_meaning, cell)


def _meaning(found: re.Match[bytes]) -> bytes:
    return _MEANS[found[0]]
