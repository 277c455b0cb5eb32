"""Clocks of the daemons' machines that are wrong, and that step: nothing depends on them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.fixtures.pipeline import Pipelines
from tests.support.bank import BANK, Bank, BankWatch
from tests.support.pipeline import FOLLOWER, Pipeline

pytestmark = pytest.mark.faults

APPLY = f"apply {FOLLOWER}"
LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))


def with_clock(pipeline: Pipeline, daemon: str, file: Path, offset: str) -> None:
    """The next start of `daemon` finds a clock that is `offset` wrong, until another one is written into `file`."""
    file.write_text(f"{offset}\n")
    pipeline.group.environment[daemon] = {
        "LD_PRELOAD": str(LIBRARIES[0]),
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_NO_CACHE": "1",
        # A step of the clock does not touch the monotonic one.
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }


def lags(pipeline: Pipeline) -> list[tuple[int, float]]:
    """(bytes, seconds) of the log and of the follower, as an operator sees them."""
    report = json.loads(pipeline.run("lag", "--json"))
    return [(hop["lag_bytes"], hop["lag_seconds"]) for hop in (report["log"], *report["followers"])]


@pytest.mark.skipif(not LIBRARIES, reason="libfaketime is not installed (Debian: apt-get install faketime)")
def test_clocks_that_are_hours_wrong_and_step_back_change_nothing(pipelines: Pipelines, tmp_path: Path):
    pipeline = pipelines.new(*BANK).init().bootstrap()
    clocks = {"capture": tmp_path / "capture-clock", APPLY: tmp_path / "apply-clock"}
    with_clock(pipeline, "capture", clocks["capture"], "+3h")
    with_clock(pipeline, APPLY, clocks[APPLY], "-1h")
    pipeline.start()
    with BankWatch(pipeline.followers[FOLLOWER]) as watch:
        with Bank(pipeline.leader) as bank:
            for capture_offset, apply_offset in (("+3h", "-1h"), ("-1h", "+1h"), ("+1h", "-30d"), ("-30d", "+0")):
                clocks["capture"].write_text(f"{capture_offset}\n")
                clocks[APPLY].write_text(f"{apply_offset}\n")
                bank.transacts(100)
                pipeline.catch_up()
                for size, seconds in lags(pipeline):
                    assert size < 2**20
                    assert 0 <= seconds < 10
        pipeline.catch_up()
        watch.check()
    pipeline.assert_equal()
    for daemon in clocks:
        log = pipeline.log_of(daemon)
        assert "[warning" not in log, log
        assert "[error" not in log, log
