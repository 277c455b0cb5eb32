"""Where a sequence goes on at a promotion: past all that is known of it, in its direction, and within its bounds."""

from __future__ import annotations

import base64

from hypothesis import given
from hypothesis import strategies as st

from cdc.events.table import TableId
from cdc.log.sequences import sequence_values, sequences_message
from connectors.postgres.sequences import Sequence

SMALLINT = 2**15 - 1
BIGINT = 2**63 - 1


def sequence(increment: int, minimum: int, maximum: int) -> Sequence:
    return Sequence(TableId("public", "s"), minimum, increment, minimum, maximum, None, None, None)


increments = st.integers(-1000, 1000).filter(bool)
bounds = st.sampled_from([(1, SMALLINT), (-SMALLINT - 1, -1), (1, BIGINT), (-BIGINT - 1, BIGINT), (1, 3), (5, 5)])
values = st.integers(0, 2**64)
margins = st.integers(0, 100_000)
names = st.text("abcxyz_ \"'ü", min_size=1, max_size=8).map(lambda name: f"s{name}")


@given(increments, bounds, values, margins)
def test_it_never_goes_back_nor_out_of_bounds(increment: int, limits: tuple[int, int], value: int, margin: int) -> None:
    minimum, maximum = limits
    value = minimum + value % (maximum - minimum + 1)
    ahead = sequence(increment, minimum, maximum).ahead(value, margin)
    assert minimum <= ahead <= maximum
    assert (ahead - value) % increment == 0
    assert (ahead - value) // increment >= 0


@given(increments, values, margins)
def test_it_leaves_out_the_margin_where_there_is_room(increment: int, value: int, margin: int) -> None:
    roomy = sequence(increment, -(2**80), 2**80)
    assert roomy.ahead(value, margin) == value + margin * increment


@given(increments, bounds, values, margins)
def test_half_of_what_is_left_stays(increment: int, limits: tuple[int, int], value: int, margin: int) -> None:
    minimum, maximum = limits
    value = minimum + value % (maximum - minimum + 1)
    one = sequence(increment, minimum, maximum)

    def steps_left(at: int) -> int:
        return (maximum - at if increment > 0 else at - minimum) // abs(increment)

    assert steps_left(one.ahead(value, margin)) >= steps_left(value) // 2


@given(increments, st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), max_size=4))
def test_of_several_values_the_last_in_its_direction(increment: int, found: list[int | None]) -> None:
    furthest = sequence(increment, -BIGINT - 1, BIGINT).further(*found)
    known = [value for value in found if value is not None]
    assert (furthest is None) == (not known)
    if furthest is not None:
        assert furthest in known
        assert all((furthest - value) * increment >= 0 for value in known)


@given(st.dictionaries(st.tuples(names, names), st.integers(-BIGINT - 1, BIGINT)))
def test_values_travel_as_they_are(told: dict[tuple[str, str], int]) -> None:
    values = {TableId(*name): value for name, value in told.items()}
    assert sequence_values(base64.b64encode(sequences_message(values)).decode()) == values
