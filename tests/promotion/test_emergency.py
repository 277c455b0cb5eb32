"""The leader's server dies under load: what was acknowledged is on the new leader, or after the end of the log."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from cdc.local.processes import wait_for
from tests.fixtures.pipeline import Pipelines
from tests.fixtures.servers import NEWEST, SYSTEM, OwnPostgres
from tests.support.log import accepted, changes, read_log
from tests.support.pipeline import FOLLOWER, LEADER, OTHER_FOLLOWER, Pipeline, rows_of
from tests.support.promotion import (
    LOADED,
    NUMBERED,
    Clients,
    assert_one_leader,
    fails,
    in_epoch,
    promote,
    receipts_in,
    state_of,
    use_numbers,
    watched,
)

pytestmark = pytest.mark.faults

SEQUENCES_KNOWN = "SELECT count(*) FROM cdc.sequence"


def receipts_in_the_log(pipeline: Pipeline, end_offset: int) -> set[int]:
    """Of the whole transactions before that offset."""
    events = accepted(read_log(pipeline.kafka_servers, pipeline.group.topic)[:end_offset])
    ends = [n for n, event in enumerate(events) if event["cdc"].get("last")]
    return {int(event["after"]["id"]) for event in changes(events[: ends[-1] + 1], "receipt")}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("version", [NEWEST, pytest.param(SYSTEM, marks=pytest.mark.long)])
def test_a_dead_leader_is_replaced(pipelines: Pipelines, own_postgres: OwnPostgres, version: int, tmp_path: Path):
    # Given a group under load whose followers know the leader's sequences, and a leader's server that is killed.
    server = own_postgres(version)
    pipeline = pipelines.new(*LOADED, *NUMBERED, version=version, leader=server, followers=(FOLLOWER, OTHER_FOLLOWER))
    pipeline.init().bootstrap()
    use_numbers(pipeline.leader, 300)
    pipeline.start()
    pipeline.catch_up()
    follower, file = pipeline.nodes[FOLLOWER], tmp_path / "report.json"
    assert wait_for(lambda: rows_of(follower, SEQUENCES_KNOWN) == [(5,)], seconds=60), "no sequences arrive"
    with Clients(pipeline.nodes) as clients, watched(pipeline, pipeline.followers):
        clients.transact(100)
        server.kill()
        before = state_of(follower)

        # When nobody says that it is dead, then nothing is done.
        line = fails(pipeline, 3, "promote", "--follower", FOLLOWER)
        assert f"{LEADER} leads and cannot be closed for writes" in line
        assert "--leader-is-dead" in line
        assert state_of(follower) == before

        # When somebody does, then the follower leads.
        began = time.monotonic()
        report = promote(pipeline, FOLLOWER, "--leader-is-dead", "the power is out", "--report", str(file))
        acknowledged = len(clients.acknowledged)
        use_numbers(follower, 1000)
        clients.transact(1)
        print(f"accepted {clients.first_after(began) - began:.2f} s after the beginning of promote; {report['steps']}")
        assert acknowledged
        clients.transact(50)
    assert json.loads(file.read_text()) == report
    assert (report["mode"], report["epoch"], report["reason"]) == ("emergency", 2, "the power is out")
    assert report["loss"].startswith(f"unknown: what {LEADER} committed after {report['log_end']} (")
    assert list(report["unreachable"]) == [LEADER]
    assert report["steps"][-1]["result"] == "capture streams from the new leader"
    in_epoch(pipeline, 2, FOLLOWER, without=(LEADER,))

    # Then what is lost is exactly what the report says, and the old leader still has it.
    lost = set(clients.missing_on(follower))
    assert not lost & receipts_in_the_log(pipeline, report["log_offset"])
    server.start()
    rejoined = tmp_path / "tail.jsonl"
    pipeline.run("rejoin", "--node", LEADER, "--discard-tail", "--file", str(rejoined))
    assert lost <= receipts_in(rejoined)
    pipeline.start_apply(LEADER)
    in_epoch(pipeline, 2, FOLLOWER)
    pipeline.assert_all_equal(FOLLOWER)
    assert_one_leader(pipeline, FOLLOWER)
