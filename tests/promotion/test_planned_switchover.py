"""A planned switchover under load: nothing is lost, nobody is bootstrapped, and the old leader follows."""

from __future__ import annotations

import json

from tests.fixtures.pipeline import Pipelines
from tests.support.bank import BANK
from tests.support.pipeline import FOLLOWER, LEADER, OTHER_FOLLOWER, rows_of
from tests.support.promotion import Clients, in_epoch, promote


def test_it_goes_there_and_the_old_leader_follows(pipelines: Pipelines, postgres_version: int):
    # Given a group with a running applier for every node, the leader among them, under load.
    pipeline = pipelines.new(*BANK, version=postgres_version, followers=(FOLLOWER, OTHER_FOLLOWER))
    pipeline.init().bootstrap().start()
    pipeline.start_apply(LEADER)
    with Clients(pipeline.nodes) as clients:
        clients.transact(100)
        # When a follower is promoted.
        report = promote(pipeline, FOLLOWER)
        clients.transact(100)
    # Then it leads, all others follow, and what was acknowledged is on every node.
    assert json.loads(pipeline.run("leader", "--json"))["leader"] == FOLLOWER
    assert (report["mode"], report["epoch"], report["remaining"][:-1]) == ("planned", 2, [])
    in_epoch(pipeline, 2, FOLLOWER)
    pipeline.assert_all_equal(FOLLOWER)
    clients.assert_all_on(pipeline.nodes[FOLLOWER])
    assert rows_of(pipeline.nodes[LEADER], "SELECT FROM pg_replication_slots WHERE database = current_database()") == []
