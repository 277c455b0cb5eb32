"""A machine that is short of memory, files or processor time: slower, or ended and started again, never wrong."""

from __future__ import annotations

import os
import random
import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from cdc.local.processes import wait_for
from tests.fixtures.pipeline import Pipelines
from tests.support.bank import BANK, Bank, BankWatch
from tests.support.cgroup import memory_limit
from tests.support.pipeline import FOLLOWER, Pipeline
from tests.support.watched import DAEMONS, MEGABYTE

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(not hasattr(psutil.Process, "rlimit"), reason="this system sets no limits of other processes"),
]

BIG = "CREATE TABLE big (id int PRIMARY KEY, x text)"
ADD_BIG_ROWS = "INSERT INTO big SELECT i, repeat(md5(i::text), 3000) FROM generate_series(1, 600) i"


@pytest.fixture
def pipeline(module_pipelines: Pipelines) -> Pipeline:
    """The bank on a leader, and everything running."""

    def build() -> Pipeline:
        return module_pipelines.new(*BANK, BIG).init().bootstrap().start()

    pipeline = module_pipelines.kept("bank", build)
    pipeline.catch_up()
    return pipeline


@contextmanager
def under_load(pipeline: Pipeline) -> Iterator[Bank]:
    """The bank works meanwhile; in the end, every look at the follower was right and all rows are there."""
    with BankWatch(pipeline.followers[FOLLOWER]) as watch:
        with Bank(pipeline.leader) as bank:
            bank.transacts(20)
            yield bank
            bank.transacts(20)
        pipeline.catch_up()
        watch.check()
    pipeline.assert_equal()


def test_64_open_files_are_enough(pipelines: Pipelines):
    pipeline = pipelines.new(*BANK).init().bootstrap().start()
    for name in DAEMONS:
        pipeline.process(name).rlimit(resource.RLIMIT_NOFILE, (64, 64))
    with under_load(pipeline) as bank:
        bank.transacts(100)
    pipeline.check_running(*DAEMONS)


@contextmanager
def starved(pids: list[int], share: float) -> Iterator[None]:
    """The processes run for `share` of the time only."""
    end = threading.Event()

    def starve() -> None:
        while not end.is_set():
            for number, seconds in ((signal.SIGSTOP, 0.5 * (1 - share)), (signal.SIGCONT, 0.5 * share)):
                for pid in pids:
                    os.kill(pid, number)
                end.wait(seconds)
        for pid in pids:
            os.kill(pid, signal.SIGCONT)

    thread = threading.Thread(target=starve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join(10)


@pytest.mark.long
def test_a_tenth_of_the_time_is_slow_and_breaks_nothing(pipeline: Pipeline):
    with under_load(pipeline) as bank:
        with starved([pipeline.process(name).pid for name in DAEMONS], 0.1):
            bank.transacts(300)
        pipeline.catch_up()
    pipeline.check_running(*DAEMONS)


@pytest.mark.parametrize("name", DAEMONS)
def test_who_gets_no_more_memory_ends_or_waits_and_the_next_one_goes_on(pipeline: Pipeline, name: str):
    chance = random.Random(name)
    with under_load(pipeline) as bank:
        process = pipeline.process(name)
        now = process.memory_info().vms
        process.rlimit(resource.RLIMIT_AS, (now + chance.randrange(4 * MEGABYTE), -1))
        pipeline.execute(ADD_BIG_ROWS)
        bank.transacts(100)
        wait_for(lambda: not pipeline.running(name), seconds=5)
        ended = not pipeline.running(name)
        print(f"{name} {'ended with ' + str(pipeline.group.daemon(name).returncode) if ended else 'goes on'}")
        pipeline.group.kill(name)
        pipeline.group.start(*name.split())
        pipeline.catch_up(seconds=60)
        pipeline.execute("DELETE FROM big")


@pytest.mark.parametrize("name", DAEMONS)
def test_who_is_killed_at_the_limit_of_its_container_leaves_nothing_half_done(pipeline: Pipeline, name: str):
    pipeline.group.kill(name)
    pipeline.group.start(*name.split())  # one that has grown before needs nothing new
    with under_load(pipeline) as bank:
        pipeline.catch_up()
        with memory_limit(pipeline.process(name).pid, megabytes=1):
            pipeline.execute(ADD_BIG_ROWS)
            assert wait_for(lambda: not pipeline.running(name), seconds=30), "it stays below the limit"
        assert pipeline.group.daemon(name).returncode == -signal.SIGKILL
        bank.transacts(100)
        pipeline.group.start(*name.split())
        pipeline.catch_up(seconds=60)
        pipeline.execute("DELETE FROM big")
