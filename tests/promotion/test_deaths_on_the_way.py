"""While a promotion is under way, something else dies too: the same command, run again, completes it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cdc.local import KafkaServer
from cdc.local.processes import wait_for
from tests.fixtures.pipeline import Pipelines
from tests.fixtures.servers import OwnPostgres
from tests.support.pipeline import FOLLOWER, LEADER, OTHER_FOLLOWER, Pipeline, rows_of
from tests.support.promotion import (
    LOADED,
    Clients,
    assert_one_leader,
    fails,
    in_epoch,
    promote,
    takes_writes,
)

pytestmark = pytest.mark.faults

LAST_FOLLOWER = "sa-east"
DEAD = "--leader-is-dead", "its server burnt"


def killed_after(pipeline: Pipeline, step: str, follower: str = FOLLOWER) -> None:
    killed = pipeline.group.run("promote", "--follower", follower, failpoint=f"promote.{step}", seconds=120)
    assert killed.returncode == -9, killed.stderr


class Stage:
    """A group on servers of its own, all of which may die; with an applier for every node."""

    def __init__(self, pipelines: Pipelines, own_postgres: OwnPostgres, kafka: KafkaServer) -> None:
        self.kafka = kafka.start()
        self.servers = {LEADER: own_postgres(), FOLLOWER: own_postgres()}
        self.pipeline = pipelines.new(
            *LOADED, leader=self.servers[LEADER], follower=self.servers[FOLLOWER], kafka_server=kafka
        )
        self.pipeline.init().bootstrap().start()
        self.pipeline.start_apply(LEADER)
        self.pipeline.catch_up()


@pytest.mark.long
@pytest.mark.timeout(600)
def test_kafka_daemons_and_the_followers_server_die_during_switchovers(
    pipelines: Pipelines, own_postgres: OwnPostgres, own_kafka: Callable[[], KafkaServer]
):
    stage = Stage(pipelines, own_postgres, own_kafka())
    pipeline, group = stage.pipeline, stage.pipeline.group

    def kafka_dies() -> None:
        stage.kafka.kill()
        fails(pipeline, 3, "promote", "--follower", FOLLOWER)
        stage.kafka.start()

    def server_dies() -> None:
        stage.servers[LEADER].stop("immediate")
        line = fails(pipeline, 3, "promote", "--follower", LEADER)
        assert f"{LEADER} cannot be reached" in line
        stage.servers[LEADER].start()

    def capture_dies() -> None:
        group.kill("capture")
        line = fails(pipeline, 3, "promote", "--follower", FOLLOWER)
        assert f"no capture streams from {LEADER}" in line
        pipeline.start_capture()

    def applier_dies() -> None:
        group.kill(f"apply {LEADER}")
        with ThreadPoolExecutor() as pool:
            waiting = pool.submit(promote, pipeline, LEADER)
            time.sleep(1)  # some of its waiting; it goes on when the applier is there
            pipeline.start_apply(LEADER)
            waiting.result()

    # Given a group under load, and promotions that were killed after some step.
    cases = (
        (FOLLOWER, "fence", kafka_dies),
        (LEADER, "epoch", server_dies),
        (FOLLOWER, "fence", capture_dies),
        (LEADER, "epoch", applier_dies),
    )
    with Clients(pipeline.nodes) as clients:
        clients.transact(20)
        for epoch, (follower, step, death) in enumerate(cases, 2):
            killed_after(pipeline, step, follower)
            # When something else dies, and comes back.
            death()
            # Then the same command completes what was begun.
            again = group.run("promote", "--follower", follower, seconds=120)
            if again.returncode == 3:  # what came back needs its time
                again = group.run("promote", "--follower", follower, seconds=120)
            assert again.returncode == 0, again.stderr
            clients.transact(20, seconds=90)
            in_epoch(pipeline, epoch, follower)
    pipeline.assert_all_equal(LEADER)
    clients.assert_all_on(*pipeline.nodes.values())
    assert_one_leader(pipeline, LEADER)


@pytest.mark.long
@pytest.mark.parametrize("step", ["fence", "epoch"])
def test_the_leader_dies_after_it_was_closed(
    pipelines: Pipelines, own_postgres: OwnPostgres, tmp_path: Path, step: str
):
    # Given a planned switchover under load that was killed, and a leader that dies then.
    server = own_postgres()
    pipeline = pipelines.new(*LOADED, leader=server, followers=(FOLLOWER, OTHER_FOLLOWER)).init().bootstrap().start()
    pipeline.catch_up()
    with Clients(pipeline.nodes) as clients:
        clients.transact(20)
        killed_after(pipeline, step)
        server.kill()
        # When it is run again: before the epoch record somebody must say that the leader is dead, afterwards not.
        if step == "fence":
            line = fails(pipeline, 3, "promote", "--follower", FOLLOWER)
            assert "--leader-is-dead" in line
            report = promote(pipeline, FOLLOWER, *DEAD)
            assert (report["mode"], report["reason"]) == ("emergency", DEAD[1])
        else:
            report = promote(pipeline, FOLLOWER)
            assert report["mode"] == "planned"
        clients.transact(20)
    # Then the same promotion is complete, and what was acknowledged is there or on the old leader.
    assert rows_of(pipeline.nodes[FOLLOWER], "SELECT outcome FROM cdc.promotion") == [("done",)]
    in_epoch(pipeline, 2, FOLLOWER, without=(LEADER,))
    lost = clients.missing_on(pipeline.nodes[FOLLOWER])
    server.start()
    assert not takes_writes(pipeline.nodes[LEADER])
    assert not (set(lost) - {n for (n,) in rows_of(pipeline.nodes[LEADER], "SELECT id FROM receipt")})
    assert step == "fence" or not lost
    pipeline.run("rejoin", "--node", LEADER, "--discard-tail", "--file", str(tmp_path / "tail.jsonl"))
    pipeline.start_apply(LEADER)
    in_epoch(pipeline, 2, FOLLOWER)
    pipeline.assert_all_equal(FOLLOWER)
    assert_one_leader(pipeline, FOLLOWER)


def test_the_leader_hangs_while_it_is_to_be_closed(pipelines: Pipelines, own_postgres: OwnPostgres):
    # Given a leader whose server stands still: it takes connections, and answers nothing.
    server = own_postgres()
    pipeline = pipelines.new(*LOADED, leader=server).init().bootstrap().start()
    pipeline.catch_up()
    os.kill(server.pid, signal.SIGSTOP)
    try:
        # Then the promotion does not hang, and with the operator's word it goes on without it.
        line = fails(pipeline, 3, "promote", "--follower", FOLLOWER)
        assert "--leader-is-dead" in line
        report = promote(pipeline, FOLLOWER, "--leader-is-dead", "it hangs")
    finally:
        os.kill(server.pid, signal.SIGCONT)
    assert report["mode"] == "emergency"
    assert takes_writes(pipeline.nodes[FOLLOWER])


@pytest.mark.long
def test_the_chosen_one_dies_for_good_and_another_one_is_chosen(pipelines: Pipelines, own_postgres: OwnPostgres):
    # Given three followers, and a switchover to one of them that dies when the log has named it.
    server = own_postgres()
    pipeline = pipelines.new(*LOADED, followers=(FOLLOWER, OTHER_FOLLOWER, LAST_FOLLOWER), servers={FOLLOWER: server})
    pipeline.init().bootstrap().start()
    pipeline.start_apply(LEADER)
    pipeline.catch_up()
    with Clients(pipeline.nodes) as clients:
        clients.transact(20)
        killed_after(pipeline, "epoch")
        server.kill()
        # When another one is promoted, because nobody can wait for it.
        line = fails(pipeline, 3, "promote", "--follower", OTHER_FOLLOWER)
        assert f"{FOLLOWER} leads and cannot be closed for writes" in line
        report = promote(pipeline, OTHER_FOLLOWER, *DEAD)
        clients.transact(20)
    # Then it leads, all the others follow it, the first leader among them, and nothing is lost.
    assert (report["epoch"], report["old_leader"], report["mode"]) == (3, FOLLOWER, "emergency")
    assert report["remaining"][0] == f"when {FOLLOWER} is back: cdc rejoin --node {FOLLOWER}"
    in_epoch(pipeline, 3, OTHER_FOLLOWER, without=(FOLLOWER,))
    clients.assert_all_on(*(dsn for name, dsn in pipeline.nodes.items() if name != FOLLOWER))

    # When the one that died is back, then it is refused as it stands, and rejoins with nothing to repair.
    server.start()
    dsn = pipeline.nodes[FOLLOWER]
    assert wait_for(lambda: rows_of(dsn, "SELECT leader FROM cdc.position") == [(FOLLOWER,)], seconds=60)
    line = fails(pipeline, 3, "promote", "--follower", FOLLOWER)
    assert f"cdc rejoin --node {FOLLOWER}" in line
    assert rows_of(dsn, "SELECT outcome FROM cdc.promotion") == [("overtaken",)]
    pipeline.run("rejoin", "--node", FOLLOWER)
    in_epoch(pipeline, 3, OTHER_FOLLOWER)
    pipeline.assert_all_equal(OTHER_FOLLOWER)
    assert_one_leader(pipeline, OTHER_FOLLOWER)
