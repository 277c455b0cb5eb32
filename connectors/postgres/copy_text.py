"""HOT PATH: rows to the text format of COPY (PostgreSQL manual, COPY, "Text Format").

A chunk is escaped at once, which costs a fraction of escaping each value. Where a count shows that no cell holds a
tab or the end of a line, rows are joined by these. Else NUL and a letter mark cells and rows meanwhile, as they do
nulls: a value of PostgreSQL never holds the character NUL.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

_CELL, _ROW, _NULL = "\0t", "\0n", "\0N"


def copy_text(rows: Iterable[Collection[str | None]]) -> bytes:
    """All `rows`, of one width, as one UTF-8 chunk for `COPY ... FROM STDIN`; cells are text or None for NULL.

    Raises TypeError when a cell is neither, ValueError when one holds the character NUL.
    """
    rows = list(rows)
    if not rows:
        return b""
    tabs = len(rows) * (len(rows[0]) - 1)
    text, nulls = _joined(rows, "\t", "\n")
    if text.count("\t") == tabs and text.count("\n") == len(rows) and "\r" not in text:
        text = text.replace("\\", "\\\\")
    else:
        text, nulls = _joined(rows, _CELL, _ROW)
        for raw, escaped in (("\\", "\\\\"), ("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t")):
            text = text.replace(raw, escaped)
        text = _replaced(text, _CELL, "\t", tabs)
        text = _replaced(text, _ROW, "\n", len(rows))
    if nulls:
        if text.count(_NULL) != nulls:
            raise ValueError(_FORGED)
        text = text.replace(_NULL, "\\N")
    if "\0" in text:
        raise ValueError(_FORGED)
    return text.encode()


_FORGED = "a cell holds the character NUL"


def _joined(rows: Sequence[Collection[str | None]], cell_mark: str, row_mark: str) -> tuple[str, int]:
    """Cells and rows with marks after them, and how many nulls are marked among them."""
    join = cell_mark.join
    lines = []
    nulls = 0
    for row in rows:
        try:
            lines.append(join(row))  # type: ignore[arg-type]
        except TypeError:
            cells = list(row)
            nulls += cells.count(None)
            lines.append(join([_NULL if cell is None else cell for cell in cells]))
    lines.append("")
    return row_mark.join(lines), nulls


def _replaced(text: str, mark: str, meaning: str, count: int) -> str:
    """`text` with its `count` marks replaced; more of them came with the cells."""
    replaced = text.replace(mark, meaning)
    if len(text) - len(replaced) != count:  # a mark has two characters, its meaning one
        raise ValueError(_FORGED)
    return replaced
