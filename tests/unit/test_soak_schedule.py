"""A soak can be had again: its schedule comes from the seed and the length alone, and from a file as it was written."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.soak.resources import slope
from tests.soak.schedule import KINDS, Schedule, make

SEEDS = range(20)


@pytest.mark.parametrize("minutes", [1, 3, 60])
def test_the_same_seed_and_length_give_the_same_schedule(minutes: float):
    for seed in SEEDS:
        assert make(seed, minutes) == make(seed, minutes)


def test_another_seed_gives_another_schedule():
    assert len({make(seed, 10) for seed in SEEDS}) == len(SEEDS)


def test_the_schedule_of_a_seed_stays_what_it_is():
    """A seed that somebody wrote down is worth nothing after this fails: say so in the changelog."""
    first = [str(step) for step in make(1, 60).rounds[0].steps[:3]]

    assert first == FIRST_STEPS_OF_SEED_1


FIRST_STEPS_OF_SEED_1 = [
    "restart (immediate) us-east for 0.3 s",
    "link (latency) us-east for 10.7 s",
    "restart (immediate) ap-south for 0.5 s",
]


def test_a_schedule_comes_back_from_its_file_as_it_was(tmp_path: Path):
    schedule = make(5, 10)
    schedule.write(tmp_path / "schedule.json")

    assert Schedule.read(tmp_path / "schedule.json") == schedule


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"seed": 1, "minutes": 1, "rounds": [{}]}'])
def test_a_file_that_is_no_schedule_is_refused(tmp_path: Path, text: str):
    (tmp_path / "schedule.json").write_text(text)

    with pytest.raises((ValueError, KeyError, TypeError)):
        Schedule.read(tmp_path / "schedule.json")


def test_an_hour_has_every_fault_on_every_target():
    wanted = {(kind.fault, target, how) for kind in KINDS for target in kind.targets for how in kind.hows}
    for seed in SEEDS:
        steps = [step for one in make(seed, 60).rounds for step in one.steps]
        assert {(step.fault, step.target, step.how) for step in steps} == wanted


def test_no_fault_befalls_what_another_one_still_holds():
    for seed in SEEDS:
        for one in make(seed, 60).rounds:
            free: Counter[tuple[bool, str]] = Counter()
            for step in one.steps:
                place = (step.fault == "link", step.target)
                assert step.at >= free[place]
                free[place] = step.at + step.seconds  # type: ignore[assignment]


def test_the_slope_of_memory_is_told_in_megabytes_an_hour():
    hour, megabyte = 3600, 2**20

    assert slope([(0, 50 * megabyte), (hour, 53 * megabyte), (2 * hour, 56 * megabyte)]) == pytest.approx(3)
    assert slope([(0, 1), (1, 2)]) is None
