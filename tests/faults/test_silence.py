"""Somebody keeps his connections and says nothing: who looks at the group still answers within ten seconds."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psutil
import pytest

from cdc.local import KafkaServer, PostgresServer
from tests.fixtures.pipeline import Pipelines
from tests.fixtures.servers import OwnPostgres
from tests.support.pipeline import FOLLOWER, LEADER, Pipeline

pytestmark = pytest.mark.faults

TABLE = "CREATE TABLE t (id int PRIMARY KEY)"
LOOKS = ("check", "status", "lag")
SECONDS = 10.0
Done = subprocess.CompletedProcess[str]


def look(pipeline: Pipeline) -> tuple[dict[str, Done], float]:
    """All at once, and how long the slowest took."""
    began = time.monotonic()
    with ThreadPoolExecutor(len(LOOKS)) as pool:
        done = list(pool.map(lambda name: pipeline.group.run(name, seconds=90.0), LOOKS))
    return dict(zip(LOOKS, done, strict=True)), time.monotonic() - began


@contextmanager
def silent(server: PostgresServer) -> Iterator[None]:
    postmaster = psutil.Process(server.pid)
    postmaster.suspend()
    try:
        yield
    finally:
        postmaster.resume()


def looks_in_time(pipeline: Pipeline, usual: float) -> dict[str, Done]:
    """On a busy machine everything takes longer, and so does this."""
    done, seconds = look(pipeline)
    assert seconds < SECONDS + 2 * usual
    for name, one in done.items():
        assert one.returncode == 3, f"{name}: {one.stderr}"
        assert "Traceback" not in one.stderr
    return done


def test_a_silent_follower(pipelines: Pipelines, own_postgres: OwnPostgres):
    follower = own_postgres()
    pipeline = pipelines.new(TABLE, follower=follower).init().bootstrap()
    done, usual = look(pipeline)
    assert {name: one.returncode for name, one in done.items()} == dict.fromkeys(LOOKS, 0), done
    with silent(follower):
        done = looks_in_time(pipeline, usual)
    assert "follower.reached" in done["check"].stdout
    assert "leader.wal_level" in done["check"].stdout
    assert f"{LEADER} (leader)" in done["status"].stdout
    assert f"{LEADER} leads" in done["lag"].stdout


@pytest.mark.long
def test_a_silent_leader_and_a_silent_kafka(
    pipelines: Pipelines, own_postgres: OwnPostgres, own_kafka: Callable[[], KafkaServer]
):
    leader, kafka = own_postgres(), own_kafka()
    pipeline = pipelines.new(TABLE, leader=leader, kafka_server=kafka).init().bootstrap()
    _, usual = look(pipeline)
    with silent(leader):
        done = looks_in_time(pipeline, usual)
    assert "leader.reached" in done["check"].stdout
    for name in LOOKS:
        assert FOLLOWER in done[name].stdout
    kafka.pause()
    try:
        done = looks_in_time(pipeline, usual)
    finally:
        kafka.resume()
    assert "kafka.reached" in done["check"].stdout
    assert "leader.wal_level" in done["check"].stdout
    assert f"{FOLLOWER} (follower)" in done["status"].stdout
