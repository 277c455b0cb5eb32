"""Rows that lie at one LSN: no kill between them skips or repeats one."""

from __future__ import annotations

import random
import signal
from collections import Counter

import psycopg
import pytest

from cdc import failpoints
from cdc.local import KafkaServer
from tests.fixtures.pipeline import Pipelines
from tests.support.log import accepted, changes, read_log
from tests.support.pipeline import FOLLOWER, Pipeline, rows_of
from tests.support.watched import recovers

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

ROWS = 30_000
TABLES = (
    # Without a key: a row that arrives twice is there twice, and no constraint hides it.
    "CREATE TABLE copied (n int)",
    "ALTER TABLE copied REPLICA IDENTITY FULL",
    "CREATE TABLE moved (n int PRIMARY KEY)",
)


def copy(pipeline: Pipeline) -> None:
    """COPY writes many rows in one WAL record, in two tables of one transaction."""
    with psycopg.connect(pipeline.leader) as connection, connection.cursor() as cursor:
        for table in ("copied", "moved"):
            with cursor.copy(f"COPY {table} FROM STDIN") as data:
                data.write("".join(f"{n}\n" for n in range(ROWS)))


def test_kills_between_rows_of_one_lsn_skip_and_repeat_none(pipelines: Pipelines, kafka: KafkaServer):
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    chance = random.Random(seed)
    pipeline = pipelines.new(*TABLES).init().bootstrap()
    pipeline.start_apply()
    copy(pipeline)
    for _ in range(3):
        pipeline.start_capture(failpoint=f"{failpoints.CAPTURE_MID_TRANSACTION}:{chance.randint(1, 5)}")
        assert pipeline.ends("capture") == -signal.SIGKILL
    pipeline.start_capture()
    recovers(pipeline, "capture killed between rows of one LSN")
    pipeline.assert_equal()
    assert rows_of(pipeline.followers[FOLLOWER], "SELECT count(*), count(DISTINCT n) FROM copied") == [(ROWS, ROWS)]
    found = changes(accepted(read_log(kafka.bootstrap_servers, pipeline.group.topic)), "copied")
    assert [int(event["after"]["n"]) for event in found] == list(range(ROWS))
    at_one_lsn = Counter(event["source"]["lsn"] for event in found)
    assert max(at_one_lsn.values()) > 10, "these rows were to share LSNs"
