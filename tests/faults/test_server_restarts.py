"""Servers crash, come back and hang: the daemons outlive it, and followers never show what the leader did not have."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from cdc.local import KafkaServer, PostgresServer
from cdc.local.processes import wait_for
from tests.fixtures.pipeline import Pipelines
from tests.fixtures.servers import OwnPostgres, durable_kafka
from tests.support.bank import BANK, Bank, BankWatch
from tests.support.pipeline import FOLLOWER, Pipeline
from tests.support.watched import DAEMONS

pytestmark = pytest.mark.faults

RECOVERY_SECONDS = 30.0
"""From the moment a server answers again until the follower holds what was committed by then."""


@contextmanager
def under_load(pipeline: Pipeline) -> Iterator[Bank]:
    """The bank works meanwhile; in the end, every look at the follower was right, all rows are there, nobody ended."""
    with BankWatch(pipeline.followers[FOLLOWER]) as watch:
        with Bank(pipeline.leader) as bank:
            bank.transacts(30)
            yield bank
            bank.transacts(30)
        pipeline.catch_up()
        watch.check()
    pipeline.assert_equal()
    pipeline.check_running(*DAEMONS)


def recovers(pipeline: Pipeline) -> None:
    """The daemons by themselves, soon."""
    started = time.monotonic()
    pipeline.catch_up(seconds=RECOVERY_SECONDS)
    print(f"recovered in {time.monotonic() - started:.1f} s")


def crashes(server: PostgresServer) -> tuple[Callable[[], None], ...]:
    return (lambda: server.stop("immediate"), server.kill)


def test_a_leader_that_crashes_and_returns_is_followed_on(
    pipelines: Pipelines, own_postgres: OwnPostgres, postgres_version: int
):
    server = own_postgres()
    pipeline = pipelines.new(*BANK, version=postgres_version, leader=server).init().bootstrap().start()
    with under_load(pipeline) as bank:
        for crash in crashes(server):
            bank.transacts(50)
            crash()
            server.start()
            recovers(pipeline)


@pytest.mark.newest_first
def test_a_follower_that_crashes_and_returns_misses_and_doubles_nothing(
    pipelines: Pipelines, own_postgres: OwnPostgres, postgres_version: int
):
    server = own_postgres()
    pipeline = pipelines.new(*BANK, version=postgres_version, follower=server).init().bootstrap().start()
    with under_load(pipeline) as bank:
        for crash in crashes(server):
            bank.transacts(50)
            crash()
            bank.transacts(20)
            server.start()
            recovers(pipeline)


@pytest.fixture(scope="module")
def mortal_kafka() -> Iterator[KafkaServer]:
    """A Kafka that tests of this module may kill and pause."""
    with durable_kafka() as server:
        yield server


@pytest.fixture
def on_mortal_kafka(mortal_kafka: KafkaServer, module_pipelines: Pipelines) -> Pipeline:
    """The bank on a leader, and everything running."""

    def build() -> Pipeline:
        return module_pipelines.new(*BANK, kafka_server=mortal_kafka).init().bootstrap().start()

    return module_pipelines.kept("bank", build)


def test_a_kafka_that_is_killed_and_returns_holds_up_nothing_else(on_mortal_kafka: Pipeline, mortal_kafka: KafkaServer):
    with under_load(on_mortal_kafka) as bank:
        mortal_kafka.kill()
        bank.transacts(50)
        mortal_kafka.start()
        recovers(on_mortal_kafka)


def test_a_kafka_that_hangs_for_seconds_stops_neither_the_leader_nor_the_daemons(
    on_mortal_kafka: Pipeline, mortal_kafka: KafkaServer
):
    def told() -> int:
        return on_mortal_kafka.log_of("capture").count("the log takes no records")

    before = told()
    with under_load(on_mortal_kafka) as bank:
        mortal_kafka.pause()
        try:
            bank.transacts(50)
            assert wait_for(lambda: told() > before, seconds=20), on_mortal_kafka.log_of("capture")
            on_mortal_kafka.check_running(*DAEMONS)
        finally:
            mortal_kafka.resume()
        recovers(on_mortal_kafka)
