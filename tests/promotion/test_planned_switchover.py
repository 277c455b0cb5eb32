"""A planned switchover under load: nothing is lost, nobody is bootstrapped, and the old leader follows."""

from __future__ import annotations

import json
from itertools import cycle, islice

import pytest

from tests.fixtures.pipeline import Pipelines
from tests.fixtures.servers import NEWEST, SYSTEM, bin_dir_of
from tests.support.pipeline import FOLLOWER, LEADER, OTHER_FOLLOWER
from tests.support.promotion import (
    LOADED,
    NUMBERED,
    Clients,
    assert_one_leader,
    in_epoch,
    promote,
    use_numbers,
    watched,
)

THERE_AND_BACK = (FOLLOWER, LEADER, OTHER_FOLLOWER, LEADER)
NOTHING_LOST = "nothing: the old leader was closed for writes, and all that it committed is applied"


def there_and_back_again(pipelines: Pipelines, version: int, rounds: int) -> None:
    """So many switchovers of one group, in which everybody has an applier, the leader too."""
    bin_dir_of(version)  # skips when it is not installed
    pipeline = pipelines.new(*LOADED, *NUMBERED, version=version, followers=(FOLLOWER, OTHER_FOLLOWER))
    pipeline.init().bootstrap().start()
    pipeline.start_apply(LEADER)
    use_numbers(pipeline.leader, 100)
    pipeline.catch_up()
    refused = []
    with Clients(pipeline.nodes) as clients:
        clients.transact(50)
        with watched(pipeline, [FOLLOWER, OTHER_FOLLOWER]):
            for epoch, follower in enumerate(islice(cycle(THERE_AND_BACK), rounds), 2):
                report = promote(pipeline, follower)
                assert (report["mode"], report["epoch"], report["loss"]) == ("planned", epoch, NOTHING_LOST)
                assert len(report["remaining"]) == 1, report["remaining"]
                refused.append(report["writes_refused_seconds"])
                use_numbers(pipeline.nodes[follower], 1000)
                clients.transact(50)
                in_epoch(pipeline, epoch, follower)
                assert json.loads(pipeline.run("leader", "--json"))["leader"] == follower
    print(f"writes refused, by the reports {refused}, by the clients at most {clients.longest_pause:.2f} s")
    in_epoch(pipeline, rounds + 1, follower)
    pipeline.assert_all_equal(follower)
    clients.assert_all_on(*pipeline.nodes.values())
    assert_one_leader(pipeline, follower)


@pytest.mark.timeout(400)
def test_three_times_there_and_back_nothing_is_lost(pipelines: Pipelines):
    there_and_back_again(pipelines, NEWEST, 3)


@pytest.mark.timeout(400)
def test_once_there_on_an_older_server(pipelines: Pipelines):
    there_and_back_again(pipelines, SYSTEM, 1)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_ten_times_there_and_back_nothing_is_lost(pipelines: Pipelines, postgres_version: int):
    there_and_back_again(pipelines, postgres_version, 10)
