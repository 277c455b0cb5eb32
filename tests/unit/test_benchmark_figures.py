"""What the benchmarks work out of what they measured."""

from __future__ import annotations

import pytest

from tests.benchmarks.figures import Spread, counted, percentile, quantiles, schedule
from tests.benchmarks.report import Sheet


def test_the_first_of_several_runs_does_not_count():
    assert counted([9, 1, 2]) == [1, 2]
    assert counted([9]) == [9]


def test_a_spread_tells_what_lies_around_the_median():
    assert Spread.of([3.0, 1.0, 2.0]).told(".0f") == "2 (1-3)"
    assert Spread.of([2.0]).told(".1f") == "2.0"


@pytest.mark.parametrize(
    ("percent", "expected"), [(50.0, 50.0), (99.0, 99.0), (99.9, 100.0), (100.0, 100.0), (0.0, 1.0)]
)
def test_a_percentile_is_a_figure_that_was_measured(percent: float, expected: float):
    assert percentile([float(number) for number in range(1, 101)], percent) == expected


def test_a_percentile_of_one_figure_is_that_figure():
    assert percentile([7.0], 99.9) == 7.0


def test_a_curve_ends_with_the_greatest_figure():
    assert quantiles([1.0, 2.0, 3.0], points=4) == [1.0, 2.0, 3.0, 3.0]


def test_transactions_are_due_at_a_fixed_rate():
    due = list(schedule(rate=1000.0, seconds=2.0))

    assert len(due) == 2000
    assert due[:3] == pytest.approx([0.0, 0.001, 0.002])
    assert due[-1] == pytest.approx(1.999)


def test_a_sheet_is_a_table_in_markdown():
    sheet = Sheet("Rates", ["workload", "cdc"], [["inserts", "10"]])

    assert sheet.markdown() == "### Rates\n\n| workload | cdc |\n| --- | ---: |\n| inserts | 10 |\n"
