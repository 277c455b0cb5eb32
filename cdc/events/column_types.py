"""Whether a column of a follower may stand for one of the leader's: it takes every value and says the same text again,
and so does the leader's own column once an ALTER TABLE has made it of the same type.

The types are compared as the log names them, and nothing is guessed: what is not provable here is not placed. That each
answer of yes is right is tried out on PostgreSQL by tests/integration/test_column_types.py.
"""

from __future__ import annotations

from dataclasses import dataclass

NO_LIMIT = -1
_ANY_TEXT = ("pg_catalog.text", "pg_catalog.varchar")
_OTHERWISE_AS_TEXT = ("pg_catalog.bool", "pg_catalog.bpchar", "pg_catalog.inet")
"""Their casts to text say something else than they do: `true` for `t`, no blanks at the end, `/32` at an address."""
_WHOLE_NUMBERS = ("pg_catalog.int2", "pg_catalog.int4", "pg_catalog.int8", "pg_catalog.numeric")
"""Each holds all of those before it, if it has no limit of its own."""
_BY_LENGTH = ("pg_catalog.varchar", "pg_catalog.varbit")
_BY_FRACTION = ("pg_catalog.time", "pg_catalog.timetz", "pg_catalog.timestamp", "pg_catalog.timestamptz")
_FINEST_FRACTION = 6
_ARRAY = "pg_catalog._"
_HEADER = 4
"""What PostgreSQL adds to the modifier of numeric; below it lie 16 bits of precision and 16 of scale."""


@dataclass(frozen=True, slots=True)
class ColumnType:
    """`name` is schema-qualified, that of the base type when the column's type is a domain; `typmod` is -1 without
    a limit. `domain` is known of a follower only: the leader's stream names the base type and no limit.
    """

    name: str
    typmod: int
    domain: bool = False


def holds(here: ColumnType, there: ColumnType) -> bool:
    """`here` is the follower's type, `there` the leader's as the log names it."""
    if here.domain and here.typmod != NO_LIMIT:
        return here.name == there.name and there.typmod == NO_LIMIT  # to be taken for the leader's own domain
    if here.name in _ANY_TEXT and here.typmod == NO_LIMIT:
        return there.name not in _OTHERWISE_AS_TEXT
    name, other = here.name, there.name
    if name.startswith(_ARRAY) and other.startswith(_ARRAY):
        name, other = name.replace(_ARRAY, "pg_catalog.", 1), other.replace(_ARRAY, "pg_catalog.", 1)
    if name == other:
        return here.typmod in (NO_LIMIT, there.typmod) or _wider(name, here.typmod, there.typmod)
    return (
        here.typmod == NO_LIMIT
        and name in _WHOLE_NUMBERS
        and other in _WHOLE_NUMBERS[: _WHOLE_NUMBERS.index(name)]
        and there.typmod == NO_LIMIT
    )


def _wider(name: str, here: int, there: int) -> bool:
    if name in _BY_FRACTION:
        return here >= (_FINEST_FRACTION if there == NO_LIMIT else there)
    if there == NO_LIMIT:
        return False
    if name in _BY_LENGTH:
        return here >= there
    if name == "pg_catalog.numeric":  # with another scale 1.50 becomes 1.5000
        here, there = here - _HEADER, there - _HEADER
        return here & 0xFFFF == there & 0xFFFF and here >> 16 >= there >> 16
    return False
