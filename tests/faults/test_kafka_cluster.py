"""Three brokers, two of which must hold a record: any one of them may die, and an unclean election is noticed."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.fixtures.pipeline import Pipelines
from tests.support.bank import BANK, a_moment
from tests.support.contents import digests
from tests.support.kafka_cluster import REPLICATED, KafkaCluster
from tests.support.log import accepted, read_log
from tests.support.pipeline import FOLLOWER, Pipeline
from tests.support.topic import Topic
from tests.support.watched import APPLY, recovers, watched_bank

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[KafkaCluster]:
    with KafkaCluster() as cluster:
        yield cluster


@pytest.fixture
def pipeline(module_pipelines: Pipelines, cluster: KafkaCluster) -> Pipeline:
    """The bank on a leader, and everything running."""

    def build() -> Pipeline:
        pipeline = module_pipelines.new(*BANK, kafka_server=cluster.as_given(), kafka=REPLICATED)
        return pipeline.init().bootstrap().start()

    return module_pipelines.kept("bank", build)


@pytest.mark.parametrize(
    "times",
    [pytest.param(1, marks=pytest.mark.long), pytest.param(20, marks=[pytest.mark.long, pytest.mark.timeout(1800)])],
)
def test_killing_the_broker_that_leads_the_log_again_and_again_leaves_its_chain_whole(
    pipeline: Pipeline, cluster: KafkaCluster, times: int
):
    topic = pipeline.group.topic
    chance = random.Random(times)
    cluster.wait_in_sync(topic)
    with watched_bank(pipeline, cluster.bootstrap_servers) as bank:
        for _ in range(times):
            bank.transacts(20)
            a_moment(chance, 0.5)
            leader = cluster.leader_of(topic)
            assert leader is not None
            cluster.node(leader).kill()
            bank.transacts(20)
            recovers(pipeline, f"broker {leader} killed")
            cluster.node(leader).start()
            cluster.wait_in_sync(topic)
    assert accepted(read_log(cluster.bootstrap_servers, topic)), "the log is read from its first record on"


@pytest.mark.long
def test_records_that_an_unclean_election_loses_stop_capture_and_the_follower_that_has_them(
    pipelines: Pipelines, cluster: KafkaCluster
):
    """Allowed for this topic only, by somebody else than us."""
    # Given a log whose newest records only one broker holds.
    loose: dict[str, int | str] = {"replication_factor": 2, "min_insync_replicas": 1}
    pipeline = pipelines.new(*BANK, kafka_server=cluster.as_given(), kafka=loose).init().bootstrap().start()
    topic = pipeline.group.topic
    Topic(cluster.as_given(), topic).set(unclean_leader_election_enable="true")
    pipeline.catch_up()
    leader = cluster.leader_of(topic)
    assert leader is not None
    (behind,) = cluster.in_sync(topic) - {leader}
    cluster.node(behind).kill()
    cluster.wait_in_sync(topic, leader)
    for _ in range(5):
        pipeline.execute("UPDATE account SET balance = balance WHERE id = 1")
    pipeline.catch_up()
    before = digests(pipeline.followers[FOLLOWER])

    # When the other broker takes over without them.
    cluster.node(leader).kill()
    try:
        cluster.node(behind).start()

        # Then nobody takes the shorter log for the whole one.
        for name, seconds in (("capture", 120.0), (APPLY, 60.0)):
            assert pipeline.ends(name, seconds=seconds) == 4, pipeline.group.tail_of_logs()
            print(pipeline.log_of(name).splitlines()[-1])
        assert "are in neither" in pipeline.log_of("capture").splitlines()[-1]
        assert "acknowledged records are gone" in pipeline.log_of(APPLY).splitlines()[-1]
        pipeline.start_apply()
        assert pipeline.ends(APPLY, seconds=60) == 4
        assert "acknowledged records are gone" in pipeline.log_of(APPLY).splitlines()[-1]
        assert digests(pipeline.followers[FOLLOWER]) == before
    finally:
        cluster.node(leader).start()
