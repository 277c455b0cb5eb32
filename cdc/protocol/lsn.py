"""The LSN: a byte position in the write-ahead log (PostgreSQL manual, section 8.20 `pg_lsn`)."""

from __future__ import annotations

import re

_TEXT = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})\Z")


class Lsn(int):
    """An `int` that prints as PostgreSQL does: `16/B374D848`. Zero is PostgreSQL's "no LSN"."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Lsn:
        """`text` as PostgreSQL prints it. Raises ValueError for anything else."""
        match = _TEXT.match(text)
        if match is None:
            raise ValueError(f"not an LSN: {text[:40]!r}")
        return cls(int(match[1], 16) << 32 | int(match[2], 16))

    def __str__(self) -> str:
        return f"{self >> 32:X}/{self & 0xFFFFFFFF:X}"

    __repr__ = __str__
