"""SIGTERM ends a daemon within 10 seconds with code 0, whatever it waits for; the next start goes on cleanly."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import psutil
import psycopg
import pytest

from cdc.local import KafkaServer, PostgresServer
from cdc.local.processes import wait_for
from tests.fixtures.pipeline import Pipelines
from tests.fixtures.servers import durable_kafka
from tests.support.bank import BANK, Bank, BankWatch, a_moment
from tests.support.log import names, read_log, whole
from tests.support.pausing import send
from tests.support.pipeline import FOLLOWER, Pipeline
from tests.support.watched import APPLY, DAEMONS, wait_until_apply_waits_for_a_lock

pytestmark = pytest.mark.faults

SECONDS = 10.0


def stop_all(pipeline: Pipeline, *daemons: str) -> None:
    """SIGTERM to all at once; each must end in time, with code 0."""
    started = time.monotonic()
    for name in daemons:
        pipeline.group.daemon(name).send_signal(signal.SIGTERM)
    for name in daemons:
        process = pipeline.group.daemon(name)
        ended = wait_for(lambda: process.poll() is not None, seconds=started + SECONDS - time.monotonic())  # noqa: B023
        assert ended, f"{name} runs on\n{pipeline.group.tail_of_logs()}"
        assert process.returncode == 0, pipeline.group.tail_of_logs()


def start_all(pipeline: Pipeline) -> None:
    """What runs no more starts again. Returns when all work: before that a signal ends them as any process."""
    stopped = [name for name in DAEMONS if not pipeline.running(name)]
    works = {"capture": "capture streams", APPLY: "applying"}
    before = {name: pipeline.log_of(name).count(works[name]) for name in stopped}
    for name in stopped:
        pipeline.group.start(*name.split())
    for name in stopped:
        begun = wait_for(lambda: pipeline.log_of(name).count(works[name]) > before[name], seconds=20)  # noqa: B023
        assert begun, pipeline.group.tail_of_logs()


def goes_on(pipeline: Pipeline) -> None:
    """What was stopped starts again, and everything arrives."""
    start_all(pipeline)
    pipeline.execute("UPDATE account SET balance = balance")
    pipeline.catch_up()
    pipeline.assert_equal()
    for name in DAEMONS:
        assert "Traceback" not in pipeline.log_of(name)


@contextmanager
def paused(pids: list[int]) -> Iterator[None]:
    send(signal.SIGSTOP, pids)
    try:
        yield
    finally:
        send(signal.SIGCONT, pids)


def family(server: PostgresServer) -> list[int]:
    postmaster = psutil.Process(server.pid)
    return [postmaster.pid, *(child.pid for child in postmaster.children(recursive=True))]


@pytest.fixture(scope="module")
def own_leader() -> Iterator[PostgresServer]:
    with PostgresServer(fsync=False) as server:
        yield server


@pytest.fixture(scope="module")
def own_follower() -> Iterator[PostgresServer]:
    with PostgresServer(fsync=False) as server:
        yield server


@pytest.fixture(scope="module")
def mortal_kafka() -> Iterator[KafkaServer]:
    """May be paused."""
    with durable_kafka() as server:
        yield server


@pytest.fixture
def pipeline(
    module_pipelines: Pipelines,
    own_leader: PostgresServer,
    own_follower: PostgresServer,
    mortal_kafka: KafkaServer,
) -> Pipeline:
    """A group that runs and has caught up."""

    def build() -> Pipeline:
        pipeline = module_pipelines.new(*BANK, leader=own_leader, follower=own_follower, kafka_server=mortal_kafka)
        return pipeline.init().bootstrap().start()

    pipeline = module_pipelines.kept("bank", build)
    pipeline.catch_up()
    return pipeline


def test_idle(pipeline: Pipeline):
    stop_all(pipeline, *DAEMONS)
    goes_on(pipeline)


def test_under_load_and_after_it_nothing_is_published_twice(pipeline: Pipeline, mortal_kafka: KafkaServer):
    with Bank(pipeline.leader, pause_seconds=0.0) as bank:
        for _ in range(2):
            bank.transacts(100)
            stop_all(pipeline, *DAEMONS)
            start_all(pipeline)
        bank.transacts(100)
        bank.stop()
    pipeline.catch_up()
    goes_on(pipeline)
    published = names(list(whole(read_log(mortal_kafka.bootstrap_servers, pipeline.group.topic))))
    assert len(published) == len(set(published))


def test_in_the_middle_of_a_giant_transaction(pipeline: Pipeline):
    pipeline.transact(*["UPDATE account SET balance = balance"] * 1000)
    stop_all(pipeline, *DAEMONS)
    goes_on(pipeline)


def test_apply_that_waits_for_a_lock(pipeline: Pipeline):
    with psycopg.connect(pipeline.followers[FOLLOWER], options="-c default_transaction_read_only=off") as blocker:
        blocker.execute("LOCK TABLE account IN ACCESS EXCLUSIVE MODE")
        pipeline.execute("UPDATE account SET note = 'locked' WHERE id = 1")
        wait_until_apply_waits_for_a_lock(pipeline)
        stop_all(pipeline, APPLY)
    goes_on(pipeline)


def test_kafka_hangs(pipeline: Pipeline, mortal_kafka: KafkaServer):
    mortal_kafka.pause()
    try:
        pipeline.execute("UPDATE account SET note = 'kafka hangs' WHERE id = 1")
        stop_all(pipeline, *DAEMONS)
    finally:
        mortal_kafka.resume()
    goes_on(pipeline)


def test_the_leader_hangs(pipeline: Pipeline, own_leader: PostgresServer):
    pipeline.execute("UPDATE account SET note = 'leader hangs' WHERE id = 1")
    with paused(family(own_leader)):
        stop_all(pipeline, "capture")
    goes_on(pipeline)


@pytest.mark.long
def test_the_follower_hangs(pipeline: Pipeline, own_follower: PostgresServer):
    with paused(family(own_follower)):
        pipeline.execute("UPDATE account SET note = 'follower hangs' WHERE id = 1")
        stop_all(pipeline, APPLY)
    goes_on(pipeline)


@pytest.mark.parametrize(
    "hanging",
    [pytest.param("kafka", marks=pytest.mark.long), "leader", pytest.param("follower", marks=pytest.mark.long)],
)
def test_daemons_that_start_while_a_server_hangs(
    pipeline: Pipeline,
    mortal_kafka: KafkaServer,
    own_leader: PostgresServer,
    own_follower: PostgresServer,
    hanging: str,
):
    stop_all(pipeline, *DAEMONS)
    concerned = {"kafka": DAEMONS, "leader": ("capture",), "follower": (APPLY,)}[hanging]
    with ExitStack() as stack:
        if hanging == "kafka":
            mortal_kafka.pause()
            stack.callback(mortal_kafka.resume)
        else:
            stack.enter_context(paused(family(own_leader if hanging == "leader" else own_follower)))
        for name in concerned:
            pipeline.group.start(*name.split())
        # they connect, so they listen to signals
        processes = [psutil.Process(pipeline.group.daemon(name).pid) for name in concerned]
        assert wait_for(lambda: all(process.net_connections("tcp") for process in processes), seconds=20)
        stop_all(pipeline, *concerned)
    goes_on(pipeline)


def check_random_stops(pipeline: Pipeline, kafka: KafkaServer, count: int) -> None:
    """Each of the daemons `count` times, at any moment of its life once it works."""
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    chance = random.Random(seed)
    published = len(numbered(pipeline, kafka))
    with BankWatch(pipeline.followers[FOLLOWER]) as watch, Bank(pipeline.leader) as bank:
        for _ in range(count):
            bank.transacts(1)
            a_moment(chance, 0.3)
            stop_all(pipeline, *chance.choice([("capture",), (APPLY,), DAEMONS]))
            start_all(pipeline)
        bank.transacts(20)
        bank.stop()
        pipeline.catch_up()
        watch.check()
    goes_on(pipeline)
    names_of_all = numbered(pipeline, kafka)
    twice = len(names_of_all) - len(set(names_of_all))
    assert twice == 0, f"{twice} of {len(names_of_all) - published} events were published again"


def numbered(pipeline: Pipeline, kafka: KafkaServer) -> list[tuple[int, int]]:
    return names(list(whole(read_log(kafka.bootstrap_servers, pipeline.group.topic, seconds=180))))


@pytest.mark.long
def test_at_random_moments(pipeline: Pipeline, mortal_kafka: KafkaServer):
    check_random_stops(pipeline, mortal_kafka, 8)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_at_500_random_moments(pipeline: Pipeline, mortal_kafka: KafkaServer):
    check_random_stops(pipeline, mortal_kafka, 500)
