"""What a report says about loss."""

from __future__ import annotations

from cdc.protocol.lsn import Lsn
from cdc.services.promotion_report import loss

AT = 1_790_000_000.0
END = {"epoch": 1, "commit_lsn": 0x16E9038, "committed_at_us": int((AT - 2.5) * 1e6), "leader": "us-east"}


def test_a_planned_promotion_loses_nothing() -> None:
    assert loss("planned", "us-east", END, AT).startswith("nothing: ")


def test_an_emergency_names_the_end_of_the_log_and_its_age() -> None:
    text = loss("emergency", "us-east", END, AT)
    assert text.startswith(f"unknown: what us-east committed after {Lsn(0x16E9038)} (2026-09-21T")
    assert "2.5 s before this promotion" in text


def test_a_clock_that_runs_behind_makes_no_negative_age() -> None:
    assert "0.0 s before" in loss("emergency", "us-east", END, AT - 60)
