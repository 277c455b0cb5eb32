"""Versions of the project side by side: what a later one adds is read or refused in one line, never misread."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from confluent_kafka import Producer

from cdc.local import KafkaServer
from tests.fixtures.pipeline import Pipelines
from tests.support.log import read_log
from tests.support.pipeline import FOLLOWER, Pipeline, rows_of
from tests.support.watched import APPLY

pytestmark = pytest.mark.faults


@pytest.fixture
def stopped(pipelines: Pipelines) -> Pipeline:
    """A group that has caught up, with its daemons stopped."""
    pipeline = pipelines.new("CREATE TABLE t (id int PRIMARY KEY, x text)").init().bootstrap().start()
    pipeline.execute("INSERT INTO t VALUES (1, 'old')")
    pipeline.catch_up()
    assert pipeline.group.stop("capture") == 0
    assert pipeline.group.stop(APPLY) == 0
    return pipeline


def append(pipeline: Pipeline, kafka: KafkaServer, **more: Any) -> int:
    """The next link of the chain, as a version that adds `more` to it may write it; gives its commit LSN."""
    mark = read_log(kafka.bootstrap_servers, pipeline.group.topic)[-1]
    before, end = mark["cdc"]["commit_lsn"], pipeline.mark()
    mark["cdc"] = {"kind": "mark", "epoch": 1, "commit_lsn": end - 1, "prev": before, "seq": 1, "last": True,
                   "end_lsn": end, **more}  # fmt: skip
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "log_level": 0})
    producer.produce(pipeline.group.topic, orjson.dumps({**mark, "invented later": [1]}), partition=0)
    assert producer.flush(10) == 0
    return end - 1


def test_fields_that_a_later_version_adds_are_ignored(stopped: Pipeline, kafka: KafkaServer):
    lsn = append(stopped, kafka, format=1, added={"later": True})
    stopped.start()
    stopped.wait_applied(lsn)
    stopped.execute("INSERT INTO t VALUES (2, 'new')")
    stopped.catch_up()
    stopped.assert_equal()


def test_a_format_of_a_later_version_is_refused_by_capture_and_apply_in_one_line(stopped: Pipeline, kafka: KafkaServer):
    before = stopped.position()
    append(stopped, kafka, format=2)
    stopped.start()
    for daemon in ("capture", APPLY):
        assert stopped.ends(daemon) == 4, stopped.group.tail_of_logs()
        (line,) = [line for line in stopped.log_of(daemon).splitlines() if line.startswith("cdc: ")]
        assert "format 2, written by a newer version; this one reads up to 1. To do: install the version" in line
    assert stopped.position() == before
    assert rows_of(stopped.followers[FOLLOWER], "SELECT x FROM t") == [("old",)]
