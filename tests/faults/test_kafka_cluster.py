"""Three brokers, two of which must hold a record: any one of them may die, and an unclean election is noticed."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.fixtures.pipeline import Pipelines
from tests.support.bank import BANK, a_moment
from tests.support.kafka_cluster import REPLICATED, KafkaCluster
from tests.support.log import accepted, read_log
from tests.support.pipeline import Pipeline
from tests.support.watched import recovers, watched_bank

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


@pytest.mark.parametrize("times", [3, pytest.param(20, marks=[pytest.mark.long, pytest.mark.timeout(1800)])])
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
