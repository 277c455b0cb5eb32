"""Clocks of the daemons' machines that are wrong, and that step: nothing depends on them."""

from __future__ import annotations

import json
import os
import time
import uuid
from pathlib import Path

import pytest
from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, Producer

from cdc.local import KafkaServer
from connectors.kafka.admin import LogAdmin, TopicSettings
from connectors.kafka.consumer import LogReader
from connectors.kafka.settings import common_settings
from tests.fixtures.pipeline import Pipelines
from tests.support.bank import BANK, Bank, BankWatch
from tests.support.log import read_log
from tests.support.pipeline import FOLLOWER, Pipeline
from tests.support.watched import APPLY

pytestmark = pytest.mark.faults

HOUR = 3600
# libfaketime would do for any process, but librdkafka's threads hang under it: a wait until a time of the faked clock
# does not end.
WRONG_CLOCK = """
import pathlib, time
file, right = pathlib.Path({file!r}), time.time_ns
time.time_ns = lambda: right() + int(file.read_text()) * 10**9
time.time = lambda: time.time_ns() / 1e9
"""


class Clock:
    """The wall clock of one daemon from its next start on; the monotonic one is as it is, as when a real one steps."""

    def __init__(self, pipeline: Pipeline, daemon: str, folder: Path) -> None:
        self._file = folder / "seconds"
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(WRONG_CLOCK.format(file=str(self._file)))
        path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
        pipeline.group.environment[daemon] = {"PYTHONPATH": path}

    def be_wrong_by(self, seconds: int) -> None:
        beside = self._file.with_suffix(".new")
        beside.write_text(str(seconds))
        beside.rename(self._file)


def check_lag(pipeline: Pipeline) -> None:
    """Of the log and the follower, as an operator sees it."""
    report = json.loads(pipeline.run("lag", "--json"))
    for hop in (report["log"], *report["followers"]):
        assert hop["lag_bytes"] < 2**20
        assert 0 <= hop["lag_seconds"] < 15


@pytest.mark.long
def test_clocks_that_are_wrong_by_hours_and_step_back_change_nothing(
    pipelines: Pipelines, kafka: KafkaServer, tmp_path: Path
):
    pipeline = pipelines.new(*BANK).init().bootstrap()
    capture, apply = Clock(pipeline, "capture", tmp_path / "capture"), Clock(pipeline, APPLY, tmp_path / "apply")
    capture.be_wrong_by(3 * HOUR)
    apply.be_wrong_by(-HOUR)
    pipeline.start()
    with BankWatch(pipeline.followers[FOLLOWER]) as watch:
        with Bank(pipeline.leader, pause_seconds=0.01) as bank:
            for seconds in (-HOUR, HOUR, -24 * HOUR, 0):
                capture.be_wrong_by(seconds)
                apply.be_wrong_by(-seconds)
                bank.transacts(50)
                pipeline.catch_up()
                check_lag(pipeline)
        pipeline.catch_up()
        watch.check()
    pipeline.assert_equal()
    for daemon in ("capture", APPLY):
        log = pipeline.log_of(daemon)
        assert "[error" not in log, log
        assert "interrupted" not in log, log
    read_at = [event["ts_ms"] / 1000 for event in read_log(kafka.bootstrap_servers, pipeline.group.topic)]
    assert max(read_at) - min(read_at) > 20 * HOUR, "capture had the clocks that it was given"


def test_records_have_the_brokers_time_whatever_capture_believes(kafka: KafkaServer):
    topic = f"test-{uuid.uuid4().hex[:10]}.log"
    settings = common_settings(kafka.bootstrap_servers, "test")
    LogAdmin(settings, topic, TopicSettings(replication_factor=1, min_insync_replicas=1)).create()
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "log_level": 0})
    now = time.time()
    for wrong in (-30 * 24 * HOUR, 3 * HOUR):
        producer.produce(topic, b"x", partition=0, timestamp=int((now + wrong) * 1000))
    assert producer.flush(20) == 0
    with LogReader(settings, topic) as reader:
        assert reader.watermarks() == (0, 2)
        reader.seek(0)
        records = [reader.consume(1, 20)[0] for _ in range(2)]
    for record in records:
        kind, at_ms = record.timestamp()
        assert kind == TIMESTAMP_LOG_APPEND_TIME
        assert abs(at_ms / 1000 - now) < HOUR
