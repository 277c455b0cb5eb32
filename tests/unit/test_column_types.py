"""Which type of a follower's column may stand for which of the leader's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.events.column_types import ColumnType, holds


def numeric(precision: int, scale: int) -> int:
    return (precision << 16 | scale) + 4


def of(name: str, typmod: int = -1, *, domain: bool = False) -> ColumnType:
    return ColumnType(name if "." in name else f"pg_catalog.{name}", typmod, domain)


YES = [
    (of("int4"), of("int4")),
    (of("int8"), of("int4")),
    (of("numeric"), of("int8")),
    (of("_int8"), of("_int2")),
    (of("text"), of("public.mood")),
    (of("varchar"), of("varchar", 9)),
    (of("varchar", 54), of("varchar", 9)),
    (of("_varchar", 54), of("_varchar", 9)),
    (of("numeric"), of("numeric", numeric(5, 2))),
    (of("numeric", numeric(9, 2)), of("numeric", numeric(5, 2))),
    (of("timestamptz", 6), of("timestamptz")),
    (of("timestamp", 3), of("timestamp", 0)),
    (of("numeric", numeric(5, 2), domain=True), of("numeric")),
    (of("int8", domain=True), of("int4")),
    (of("public.mood"), of("public.mood")),
]
NO = [
    (of("int4"), of("int8")),
    (of("int4"), of("text")),
    (of("_text"), of("_int4")),
    (of("varchar", 9), of("varchar", 54)),
    (of("varchar", 9), of("varchar")),
    (of("varchar", 9), of("text")),
    (of("bpchar", 14), of("bpchar", 9)),
    (of("numeric", numeric(9, 2)), of("int4")),
    (of("numeric"), of("float8")),
    (of("numeric", numeric(9, 4)), of("numeric", numeric(5, 2))),
    (of("numeric", numeric(5, 2)), of("numeric")),
    (of("float8"), of("float4")),
    (of("jsonb"), of("json")),
    (of("timestamp"), of("timestamptz")),
    (of("timestamp", 0), of("timestamp")),
    (of("numeric", numeric(5, 2), domain=True), of("numeric", numeric(5, 2))),
    (of("public.mood"), of("text")),
    (of("a.mood"), of("b.mood")),
    (of("text"), of("bool")),
    (of("varchar"), of("bpchar", 9)),
    (of("text"), of("inet")),
]


@pytest.mark.parametrize(("here", "there"), YES, ids=str)
def test_column_that_takes_every_value_may_stand_for_the_leaders(here: ColumnType, there: ColumnType):
    assert holds(here, there)


@pytest.mark.parametrize(("here", "there"), NO, ids=str)
def test_column_that_may_lose_something_may_not(here: ColumnType, there: ColumnType):
    assert not holds(here, there)


types = st.builds(
    ColumnType,
    st.sampled_from(
        [f"pg_catalog.{name}" for name in ("int2", "int8", "numeric", "text", "varchar", "_varchar", "time")]
    ),
    st.sampled_from([-1, 0, 3, 6, 9, numeric(5, 2), numeric(9, 2)]),
)


@given(types, types, types)
def test_every_type_holds_itself_and_what_is_held_is_held_further_up(a: ColumnType, b: ColumnType, c: ColumnType):
    assert holds(a, a)
    if holds(a, b) and holds(b, c):
        assert holds(a, c)
