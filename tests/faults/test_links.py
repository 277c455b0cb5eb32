"""Each link of the pipeline fails in each way that networks fail: noticed, got over without help, all rows equal."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

import pytest

from cdc.errors import RetryableError
from cdc.local import find_kafka
from cdc.local.apache_kafka import ApacheKafka
from cdc.local.processes import wait_for
from connectors.kafka.consumer import LogReader
from connectors.kafka.settings import common_settings
from tests.fixtures.pipeline import Pipelines
from tests.support.bank import BANK, Bank, BankWatch
from tests.support.links import APPLY, CAPTURE, LINKS, Links, ProxiedKafka, proxied
from tests.support.pipeline import FOLLOWER, Pipeline, rows_of
from tests.support.proxy import CUT, HALF_OPEN, PASS, Link

# The servers of this module start within the time of its first test.
pytestmark = [pytest.mark.faults, pytest.mark.timeout(400)]

NOTICED_SECONDS = 30.0
RECOVERY_SECONDS = 40.0
"""Waits between attempts grow to 5 s, a connection takes up to 5 s to fail, and this machine may be loaded."""
SLOW = Link(latency_seconds=0.5)
RESETS = Link(reset_chance=0.001)
WAYS = {"cut": CUT, "half-open": HALF_OPEN, "slow": SLOW, "resets": RESETS}


@pytest.fixture(scope="module")
def proxied_kafka() -> Iterator[ProxiedKafka]:
    kafka = find_kafka()
    if not isinstance(kafka, ApacheKafka):
        pytest.skip(f"{kafka.description} cannot be put behind a proxy")
    with proxied(kafka) as behind:
        yield behind


@pytest.fixture(scope="module")
def group(module_pipelines: Pipelines, proxied_kafka: ProxiedKafka) -> Iterator[tuple[Pipeline, Links]]:
    """The bank on a leader, and everything running."""
    with ExitStack() as stack:
        pipeline = module_pipelines.new(*BANK, kafka_server=proxied_kafka.server).init().bootstrap()
        links = Links(stack, pipeline, proxied_kafka)
        pipeline.start()
        pipeline.catch_up()
        yield pipeline, links
        # The daemons end while their links are there.
        pipeline.close()


@contextmanager
def under_load(pipeline: Pipeline) -> Iterator[Bank]:
    """The bank works meanwhile; in the end, every look at the follower was right, all rows are there, nobody ended."""
    with BankWatch(pipeline.followers[FOLLOWER]) as watch:
        with Bank(pipeline.leader) as bank:
            bank.transacts(30)
            yield bank
            bank.transacts(30)
        started = time.monotonic()
        pipeline.catch_up(seconds=RECOVERY_SECONDS)
        print(f"recovered in {time.monotonic() - started:.1f} s")
        watch.check()
    pipeline.assert_equal()
    pipeline.check_running(CAPTURE, APPLY)


def complaints(pipeline: Pipeline, daemon: str) -> int:
    """Lines of a daemon's log that a person should look at."""
    return sum("[warning" in line or "[error" in line for line in pipeline.log_of(daemon).splitlines())


@contextmanager
def noticed(pipeline: Pipeline, *daemons: str) -> Iterator[None]:
    """What is spoilt inside, each of the daemons says in time. Waits for that."""
    before = {name: complaints(pipeline, name) for name in daemons}
    started = time.monotonic()
    yield
    for name in daemons:
        left = started + NOTICED_SECONDS - time.monotonic()
        assert wait_for(lambda: complaints(pipeline, name) > before[name], seconds=left), (  # noqa: B023
            f"{name} says nothing\n{pipeline.group.tail_of_logs()}"
        )
        print(f"{name} told after {time.monotonic() - started:.1f} s")


@contextmanager
def spoilt(links: Links, names: Sequence[str], link: Link) -> Iterator[None]:
    for name in names:
        links[name].set(link)
    try:
        yield
    finally:
        for name in names:
            links[name].set(PASS)


@dataclass(frozen=True)
class Places:
    """LSNs that the hops of the pipeline have reached, as the servers themselves say."""

    leader: int
    log: int
    follower: int


def places(pipeline: Pipeline, links: Links) -> Places:
    leader = rows_of(pipeline.leader, "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint")[0][0]
    with LogReader(common_settings(links.kafka_servers, "test"), pipeline.group.topic) as reader:
        tail = reader.read_tail()
    assert tail is not None
    follower = rows_of(pipeline.followers[FOLLOWER], "SELECT (end_lsn - '0/0')::bigint FROM cdc.position")[0][0]
    return Places(leader, tail.end_lsn, follower)


def lags(pipeline: Pipeline, links: Links) -> dict[str, tuple[int, float]]:
    """(bytes, seconds) of the log and of the follower, as `cdc lag` says them; checked against what the servers say."""
    before = places(pipeline, links)
    report = json.loads(pipeline.run("lag", "--json"))
    after = places(pipeline, links)
    log, follower = report["log"], report["followers"][0]
    found = {
        "log": (log["total_bytes"], log["total_seconds"]),
        "follower": (follower["lag_bytes"], follower["lag_seconds"]),
    }
    assert before.leader - after.log <= found["log"][0] <= after.leader - before.log
    assert before.log - after.follower <= found["follower"][0] <= after.log - before.follower
    for size, seconds in found.values():
        assert (size == 0) == (seconds == 0) or seconds > 0
    return found


@pytest.mark.long
def test_each_link_is_cut_in_turn_and_lag_tells_which(group: tuple[Pipeline, Links]):
    pipeline, links = group
    with under_load(pipeline) as bank:
        for name in LINKS:
            hop = "log" if links.daemon(name) == CAPTURE else "follower"
            with links[name].during(CUT), noticed(pipeline, links.daemon(name)):
                bank.transacts(10)
                early = lags(pipeline, links)[hop]
                bank.transacts(30)
                late = lags(pipeline, links)[hop]
                assert 0 < early[0] < late[0]
                assert 0 < early[1] < late[1]
            pipeline.catch_up(seconds=RECOVERY_SECONDS)
    assert wait_for(lambda: all(lag == (0, 0) for lag in lags(pipeline, links).values()), seconds=20)


@pytest.mark.parametrize(
    "names",
    [LINKS[0::2], *(pytest.param(some, marks=pytest.mark.long) for some in (LINKS[1:2], LINKS[3:]))],
    ids=" ".join,
)
def test_links_that_stay_open_and_carry_nothing(group: tuple[Pipeline, Links], names: Sequence[str]):
    pipeline, links = group
    daemons = [links.daemon(name) for name in names]
    with under_load(pipeline) as bank, spoilt(links, names, HALF_OPEN), noticed(pipeline, *daemons):
        bank.transacts(5)


def test_all_links_are_slow_and_lose_their_connections_again_and_again(group: tuple[Pipeline, Links]):
    pipeline, links = group
    with under_load(pipeline) as bank, spoilt(links, LINKS, Link(latency_seconds=0.05)):
        for _ in range(3):
            for name in LINKS:
                links[name].reset_all()
                bank.transacts(10)
        pipeline.catch_up(seconds=60)


@pytest.mark.long
@pytest.mark.parametrize("name", LINKS)
@pytest.mark.parametrize("way", WAYS)
def test_each_link_fails_in_each_way_for_half_a_minute(group: tuple[Pipeline, Links], name: str, way: str):
    pipeline, links = group
    with under_load(pipeline) as bank, links[name].during(WAYS[way]):
        started = time.monotonic()
        while time.monotonic() < started + 30:
            bank.transacts(20)
        lags(pipeline, links)


def test_a_reader_that_lost_its_broker_does_not_call_the_topic_gone(group: tuple[Pipeline, Links]):
    pipeline, links = group
    proxy = links["kafka-apply"]
    with LogReader(common_settings(proxy.address, "test"), pipeline.group.topic) as reader:
        low, high = reader.watermarks()
        reader.seek(low)
        assert reader.consume(1, 10)
        with proxy.during(CUT):
            for _ in range(2):
                reader.consume(1, 0.2)
                with pytest.raises(RetryableError):
                    reader.watermarks()

        def found() -> bool:
            with suppress(RetryableError):
                return reader.watermarks() >= (low, high)
            return False

        assert wait_for(found, seconds=20)


def test_who_asks_for_lag_does_not_wait_for_a_server_that_says_nothing(
    group: tuple[Pipeline, Links], monkeypatch: pytest.MonkeyPatch
):
    pipeline, links = group
    monkeypatch.setenv("CDC_NODES", pipeline.group.environment[CAPTURE]["CDC_NODES"])
    with spoilt(links, ("leader-capture", "apply-follower"), HALF_OPEN):
        done = pipeline.group.run("lag", "--json", seconds=30)
    report = json.loads(done.stdout)
    assert done.returncode == 3
    assert "no connection" in report["leader_problem"]
    assert "no connection" in report["followers"][0]["problem"]
    assert report["log"]["position"]


@dataclass(frozen=True)
class Held:
    """What a daemon has of the machine and of the servers."""

    threads: int
    files: int
    megabytes: int

    @classmethod
    def by(cls, pipeline: Pipeline, daemon: str) -> Held:
        process = pipeline.process(daemon)
        return cls(process.num_threads(), process.num_fds(), process.memory_info().rss // 2**20)


def sessions(pipeline: Pipeline) -> int:
    """Of the daemons, on both servers."""
    query = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'cdc %'"
    return sum(len(rows_of(dsn, query)) for dsn in (pipeline.leader, pipeline.followers[FOLLOWER]))


def check_flapping(group: tuple[Pipeline, Links], names: Sequence[str], seconds: float) -> None:
    pipeline, links = group
    pipeline.catch_up()
    before = {daemon: Held.by(pipeline, daemon) for daemon in (CAPTURE, APPLY)}
    connected = sessions(pipeline)
    with under_load(pipeline) as bank, ExitStack() as flapping:
        for name in names:
            flapping.enter_context(links[name].flapping(3.0, (CUT, PASS, HALF_OPEN, PASS)))
        started = time.monotonic()
        while time.monotonic() < started + seconds:
            bank.transacts(20)

    def settled() -> bool:
        now = {daemon: Held.by(pipeline, daemon) for daemon in before}
        return sessions(pipeline) <= connected and all(
            now[daemon].threads <= held.threads
            and now[daemon].files <= held.files + 2
            and now[daemon].megabytes <= held.megabytes + 48
            for daemon, held in before.items()
        )

    assert wait_for(settled, seconds=40), (before, {daemon: Held.by(pipeline, daemon) for daemon in before})


@pytest.mark.long
def test_links_that_come_and_go_leave_nothing_behind(group: tuple[Pipeline, Links]):
    check_flapping(group, LINKS, 20)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", LINKS)
def test_a_link_that_comes_and_goes_for_minutes_leaves_nothing_behind(group: tuple[Pipeline, Links], name: str):
    check_flapping(group, [name], 600)
