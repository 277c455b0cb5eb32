"""Capture stands still for longer than the leader waits for it: the slot keeps all, and only one capture writes."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from cdc.local import KafkaServer, PostgresServer
from cdc.local.processes import end_child, wait_for
from tests.fixtures.pipeline import Pipelines
from tests.support.bank import BANK
from tests.support.committing import TABLE, Committing
from tests.support.log import accepted, read_log
from tests.support.pausing import paused
from tests.support.pipeline import Pipeline, rows_of, set_for_database
from tests.support.watched import recovers, watched_bank

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

TIMEOUT_SECONDS = 3
"""wal_sender_timeout here; capture is heard every second."""


@pytest.fixture(scope="module")
def impatient_leader() -> Iterator[PostgresServer]:
    with PostgresServer(fsync=False, settings={"wal_sender_timeout": f"{TIMEOUT_SECONDS}s"}) as server:
        yield server


@pytest.fixture
def pipeline(module_pipelines: Pipelines, impatient_leader: PostgresServer) -> Pipeline:
    """The bank on a leader, and everything running."""

    def build() -> Pipeline:
        return module_pipelines.new(*BANK, leader=impatient_leader).init().bootstrap().start()

    return module_pipelines.kept("bank", build)


def wait_until_let_go(pipeline: Pipeline) -> None:
    """Until the leader has given up the connection that its slot was read by."""
    active = f"SELECT active FROM pg_replication_slots WHERE slot_name = '{pipeline.group.slot}'"
    assert wait_for(lambda: rows_of(pipeline.leader, active) == [(False,)], seconds=60), "the slot stays in use"


@pytest.mark.parametrize("seconds", [0, pytest.param(300, marks=[pytest.mark.long, pytest.mark.timeout(600)])])
def test_a_capture_that_the_leader_gave_up_goes_on_where_it_was(pipeline: Pipeline, kafka: KafkaServer, seconds: int):
    with watched_bank(pipeline, kafka.bootstrap_servers) as bank:
        with paused(pipeline.group.daemon("capture")):
            wait_until_let_go(pipeline)
            time.sleep(seconds)
            bank.transacts(50)
        recovers(pipeline, "capture paused", seconds=40 + seconds / 2)  # of work that has piled up


def test_a_capture_that_wakes_up_finds_another_one_at_work_and_leaves_it_the_log(
    pipeline: Pipeline, kafka: KafkaServer
):
    first = pipeline.group.daemon("capture")
    with watched_bank(pipeline, kafka.bootstrap_servers, pause_seconds=0.0) as bank:
        bank.transacts(50)
        with paused(first):
            wait_until_let_go(pipeline)
            pipeline.start_capture()
            recovers(pipeline, "the second capture took over")
            bank.transacts(50)
        # The first one finds out by its own late records or by the slot; the second one may be the one that yields,
        # when these records make it look anew and the first one is quicker.
        both = (first, pipeline.group.daemon("capture"))
        assert wait_for(lambda: any(process.poll() is not None for process in both), seconds=60), "both go on"
        ended, works = sorted(both, key=lambda process: process.returncode is None)
        assert ended.returncode == 4, pipeline.group.tail_of_logs()
        assert "is in use by cdc capture" in pipeline.log_of("capture")
        assert works.poll() is None
        if works is first:  # the group knows the newest one only
            assert end_child(first, signal.SIGTERM, seconds=30)
            pipeline.start_capture()
        bank.transacts(50)
    assert accepted(read_log(kafka.bootstrap_servers, pipeline.group.topic)), "the log has no gap from its start on"


def test_a_capture_takes_over_from_one_that_is_gone_before_the_leader_has_noticed(
    pipeline: Pipeline, kafka: KafkaServer
):
    # Given a capture of which the leader hears nothing any more, as when its machine is gone, and notices late.
    set_for_database(pipeline.leader, wal_sender_timeout="15s")
    assert pipeline.group.stop("capture") == 0
    pipeline.start_capture()
    first = pipeline.group.daemon("capture")
    with watched_bank(pipeline, kafka.bootstrap_servers) as bank:
        bank.transacts(20)
        first.send_signal(signal.SIGSTOP)
        try:
            # When another one is started at once, then it waits for as long as the leader does.
            pipeline.start_capture()
            recovers(pipeline, "the second capture took over", seconds=60)
            assert pipeline.group.daemon("capture").poll() is None
        finally:
            first.kill()
            first.wait()
        bank.transacts(20)


def test_a_leader_shuts_down_in_time_beside_a_capture_that_does_not_answer_and_nothing_is_lost(
    pipeline: Pipeline, kafka: KafkaServer, impatient_leader: PostgresServer
):
    with watched_bank(pipeline, kafka.bootstrap_servers) as bank:
        with paused(pipeline.group.daemon("capture")):
            bank.transacts(50)
            started = time.monotonic()
            impatient_leader.stop("fast")
            took = time.monotonic() - started
            print(f"the shutdown took {took:.1f} s")
            assert took < TIMEOUT_SECONDS + 15
            impatient_leader.start()
            bank.transacts(20)
        recovers(pipeline, "leader shut down")


def test_a_leader_shuts_down_in_time_beside_a_capture_that_was_stopped_while_it_held_its_walsender(
    pipelines: Pipelines, impatient_leader: PostgresServer
):
    """Which looks for a shutdown only when it is let go (connectors/postgres/hold.py)."""
    pipeline = pipelines.new(TABLE, leader=impatient_leader).init().bootstrap().start()
    capture = pipeline.group.daemon("capture")
    with Committing(pipeline.leader) as load:
        try:
            # Given a capture that is stopped, and half of its message is with a walsender.
            assert wait_for(lambda: stopped_while_it_holds(pipeline, capture), seconds=60)
            load.end()
            # When its leader is shut down, then that ends.
            started = time.monotonic()
            impatient_leader.stop("fast")
            took = time.monotonic() - started
            print(f"the shutdown took {took:.1f} s")
            assert took < TIMEOUT_SECONDS + 15
        finally:
            capture.send_signal(signal.SIGCONT)
    # And nothing is lost.
    impatient_leader.start()
    pipeline.catch_up()
    pipeline.assert_equal()


def stopped_while_it_holds(pipeline: Pipeline, capture: subprocess.Popen[bytes]) -> bool:
    """Else it goes on."""
    waits_for = (
        "SELECT wait_event FROM pg_stat_activity JOIN pg_replication_slots ON pid = active_pid "
        f"WHERE slot_name = '{pipeline.group.slot}'"
    )
    capture.send_signal(signal.SIGSTOP)
    if rows_of(pipeline.leader, waits_for) == [("ClientRead",)]:
        return True
    capture.send_signal(signal.SIGCONT)
    return False
