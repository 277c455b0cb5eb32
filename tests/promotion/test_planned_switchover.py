"""A planned switchover under load: nothing is lost, nobody is bootstrapped, and the old leader follows."""

from __future__ import annotations

import json
from contextlib import ExitStack, suppress
from itertools import cycle, islice

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg_pool import ConnectionPool, PoolTimeout

from cdc.local.processes import wait_for
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


@pytest.mark.long
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


def test_a_pool_of_an_application_finds_the_new_leader_by_itself(pipelines: Pipelines):
    # Given an application with a pool for each node, whose databases have different names here.
    pipeline = pipelines.new("CREATE TABLE t (id int PRIMARY KEY)").init().bootstrap().start()
    with ExitStack() as stack:
        pools = [
            stack.enter_context(
                ConnectionPool(
                    make_conninfo(dsn, target_session_attrs="read-write"), min_size=0, max_size=2, timeout=2,
                    check=ConnectionPool.check_connection,
                )
            )
            for dsn in pipeline.nodes.values()
        ]  # fmt: skip

        def write(number: int) -> int | None:
            """The index of the pool that took it."""
            for index, pool in enumerate(pools):
                with suppress(psycopg.Error, PoolTimeout), pool.connection() as connection:
                    connection.execute("INSERT INTO t VALUES (%s)", (number,))
                    return index
            return None

        assert write(1) == 0

        # When another node leads, then its connections to the old leader are gone, and those to the new one write.
        promote(pipeline, FOLLOWER)
        assert wait_for(lambda: write(2) == 1, seconds=30)
