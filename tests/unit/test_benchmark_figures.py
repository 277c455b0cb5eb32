"""What the benchmarks work out of what they measured."""

from __future__ import annotations

import pytest

from tests.benchmarks.figures import Spread, counted, percentile, quantiles, schedule
from tests.benchmarks.latency import summary
from tests.benchmarks.leader import Beside, Turn, quiet
from tests.benchmarks.report import NoResult, Sheet
from tests.benchmarks.stage import take_turns


def test_the_first_of_several_runs_does_not_count():
    assert counted([9, 1, 2]) == [1, 2]
    assert counted([9]) == [9]


def test_a_spread_tells_what_lies_around_the_median():
    assert Spread.of([3.0, 1.0, 2.0]).told(".0f") == "2 (1-3)"
    assert Spread.of([2.0]).told(".1f") == "2.0"


def test_the_middle_half_is_without_what_lies_far_off():
    assert Spread.of_middle_half([-90.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 80.0]).told(".1f") == "6.5 (4.0-8.0)"


@pytest.mark.parametrize(("left_alone", "count"), [(5, 5), (4, 7)])
def test_turns_that_the_host_disturbed_count_only_where_few_others_are(left_alone: int, count: int):
    beside = Beside(rate=90.0, catch_up_seconds=None, cpu_us={}, wal_mb={}, fsyncs={})
    turns = [Turn(beside, alone=100.0, stolen_percent=0.4)] * left_alone
    disturbed = [Turn(beside, alone=100.0, stolen_percent=1.1)] * 3
    assert len(quiet([*turns, *disturbed])) == count


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


def test_latency_counts_from_the_return_of_a_commit_and_beside_it_from_when_it_was_due():
    due, returned, seen = [1.0, 2.0], [1.001, 2.010], [1.003, 2.009]

    found = summary(due, returned, seen)

    assert found.percentiles[50.0] == 0.0, "the follower showed the second before the client had heard of it"
    assert found.greatest == 2.0
    assert found.from_schedule[50.0] == 3.0
    assert found.late_p99 == 10.0


def test_another_engine_is_first_in_each_run_and_one_that_fails_costs_only_its_own():
    failures: list[str] = []
    worked: list[tuple[str, int]] = []

    def work(engine: str, run: int) -> None:
        if (engine, run) == ("native", 1):
            raise NoResult("it did not catch up")
        worked.append((engine, run))

    take_turns("drain", ["native", "cdc"], 3, failures, work)

    assert worked == [("native", 0), ("cdc", 0), ("cdc", 1), ("native", 2), ("cdc", 2)]
    assert failures == ["drain, native, run 2: it did not catch up"]
