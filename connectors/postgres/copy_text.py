"""HOT PATH: rows to the text format of COPY (PostgreSQL manual, COPY, "Text Format").

A value of PostgreSQL never holds the character NUL, so NUL and a letter mark cells, rows and nulls
while the whole chunk is escaped at once, which costs a fraction of escaping each value.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

_CELL, _ROW, _NULL = "\0t", "\0n", "\0N"


def copy_text(rows: Iterable[Collection[str | None]]) -> bytes:
    """All `rows`, of one width, as one UTF-8 chunk for `COPY ... FROM STDIN`; cells are text or None for NULL.

    Raises TypeError when a cell is neither, ValueError when one holds the character NUL.
    """
    join = _CELL.join
    lines = []
    width = nulls = 0
    for row in rows:
        try:
            lines.append(join(row))  # type: ignore[arg-type]
        except TypeError:
            cells = list(row)
            nulls += cells.count(None)
            lines.append(join([_NULL if cell is None else cell for cell in cells]))
        width = len(row)
    count = len(lines)
    lines.append("")
    text = _ROW.join(lines)
    for raw, escaped in (("\\", "\\\\"), ("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t")):
        if raw in text:
            text = text.replace(raw, escaped)
    text = _replaced(text, _CELL, "\t", count * (width - 1) if count else 0)
    text = _replaced(text, _ROW, "\n", count)
    if nulls:
        if text.count(_NULL) != nulls:
            raise ValueError(_FORGED)
        text = text.replace(_NULL, "\\N")
    if "\0" in text:
        raise ValueError(_FORGED)
    return text.encode()


_FORGED = "a cell holds the character NUL"


def _replaced(text: str, mark: str, meaning: str, count: int) -> str:
    """`text` with its `count` marks replaced; more of them came with the cells."""
    replaced = text.replace(mark, meaning)
    if len(text) - len(replaced) != count:  # a mark has two characters, its meaning one
        raise ValueError(_FORGED)
    return replaced
