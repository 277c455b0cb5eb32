"""The first copy of a follower: exact under writes, whole after a kill, and made once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.fixtures.pipeline import Pipelines
from tests.support.bank import BANK, Bank, BankWatch
from tests.support.contents import digests
from tests.support.pipeline import FOLLOWER, OTHER_FOLLOWER, Pipeline, rows_of

pytestmark = pytest.mark.faults


def killed_bootstrap(pipeline: Pipeline, failpoint: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cdc", "bootstrap", "--follower", FOLLOWER],
        env={**os.environ, "CDC_CONFIG": str(pipeline.group.config), "CDC_FAILPOINT": failpoint},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


def temporary_slots(pipeline: Pipeline) -> int:
    return len(
        rows_of(pipeline.leader, "SELECT FROM pg_replication_slots WHERE temporary AND database = current_database()")
    )


@pytest.mark.parametrize("failpoint", ["bootstrap.copying", "bootstrap.before_position"])
def test_a_copy_that_was_killed_is_made_anew_and_is_exact(pipelines: Pipelines, failpoint: str):
    pipeline = pipelines.new(*BANK).init()
    pipeline.start_capture()
    with Bank(pipeline.leader) as bank:
        bank.transacts(20)
        killed_bootstrap(pipeline, failpoint)
        assert rows_of(pipeline.followers[FOLLOWER], "SELECT FROM cdc.position") == []
        refused = pipeline.group.run("apply", "--follower", FOLLOWER)
        assert refused.returncode == 3, refused.stderr
        bank.transacts(20)
        pipeline.bootstrap()
        pipeline.start_apply()
        with BankWatch(pipeline.followers[FOLLOWER]) as watch:
            bank.transacts(50)
            bank.stop()
            pipeline.catch_up()
            watch.check()
    pipeline.assert_equal()
    assert temporary_slots(pipeline) == 0


def test_followers_that_join_under_load_become_equal(pipelines: Pipelines):
    """The first joins before capture runs for the first time, the second a group that runs."""
    pipeline = pipelines.new(*BANK, followers=(FOLLOWER, OTHER_FOLLOWER)).init()
    with Bank(pipeline.leader, pause_seconds=0.001) as bank:
        bank.transacts(50)
        pipeline.bootstrap(FOLLOWER)
        pipeline.start(FOLLOWER)
        with BankWatch(pipeline.followers[FOLLOWER]) as watch:
            bank.transacts(100)
            pipeline.bootstrap(OTHER_FOLLOWER)
            pipeline.start_apply(OTHER_FOLLOWER)
            with BankWatch(pipeline.followers[OTHER_FOLLOWER]) as other_watch:
                bank.transacts(100)
                bank.stop()
                pipeline.catch_up()
                other_watch.check()
            watch.check()
    pipeline.assert_equal()
    assert temporary_slots(pipeline) == 0


@pytest.mark.long
def test_a_second_bootstrap_says_that_it_is_done_and_changes_nothing(pipelines: Pipelines):
    pipeline = pipelines.new(*BANK).init().bootstrap()
    follower = pipeline.followers[FOLLOWER]
    bookkeeping = "SELECT * FROM cdc.position, cdc.bootstrap"
    before = digests(follower), rows_of(follower, bookkeeping)
    pipeline.execute("UPDATE account SET note = 'newer'")
    said = pipeline.run("bootstrap", "--follower", FOLLOWER)
    assert "was bootstrapped before; nothing to do" in said
    assert (digests(follower), rows_of(follower, bookkeeping)) == before
    pipeline.start()
    pipeline.catch_up()
    pipeline.assert_equal()
    assert "nothing to do" in pipeline.run("bootstrap", "--follower", FOLLOWER)
    pipeline.check_running("capture", f"apply {FOLLOWER}")
