"""The Kafka offset that a follower stores is a hint: wherever it points, the chain finds the place."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cdc.local import KafkaServer
from tests.fixtures.pipeline import Pipelines
from tests.support.log import Event, read_log
from tests.support.pipeline import FOLLOWER, Pipeline, run_sql

TABLE = "CREATE TABLE item (id int PRIMARY KEY, v text)"


def newest(events: list[Event], wanted: Callable[[Event], bool]) -> int:
    return max(offset for offset, event in enumerate(events) if wanted(event))


def is_first_part(event: Event) -> bool:
    return bool(event["cdc"].get("part") == 1)


def is_inside_a_large_record(event: Event) -> bool:
    return bool(event["cdc"].get("part") == 9)


def is_inside_a_transaction(event: Event) -> bool:
    return bool(event["op"] == "c" and event["cdc"]["seq"] == 25)


HINTS: dict[str, Callable[[list[Event]], int]] = {
    "the beginning": lambda events: 0,
    "a large record": lambda events: newest(events, is_first_part),
    "the middle of a large record": lambda events: newest(events, is_inside_a_large_record),
    "the middle of a transaction": lambda events: newest(events, is_inside_a_transaction),
    "the end": len,
    "past the end": lambda events: len(events) + 1000,
}


@pytest.fixture
def pipeline(module_pipelines: Pipelines) -> Pipeline:
    def build() -> Pipeline:
        return module_pipelines.new(TABLE, kafka={"max_record_bytes": 5_000}).init().bootstrap().start()

    return module_pipelines.kept("hint", build)


@pytest.mark.parametrize("hint", list(HINTS))
def test_follower_finds_its_place_when_its_offset_points_to(pipeline: Pipeline, kafka: KafkaServer, hint: str):
    # Given a follower that has not seen a large row and a transaction of many rows.
    pipeline.catch_up()
    assert pipeline.group.stop(f"apply {FOLLOWER}") == 0
    pipeline.execute(
        "TRUNCATE item",
        "INSERT INTO item VALUES (0, repeat(md5('large'), 3000))",
        "INSERT INTO item SELECT i, 'v' FROM generate_series(1, 50) i",
    )
    pipeline.wait_published()

    # When its offset is a wrong one.
    offset = HINTS[hint](read_log(kafka.bootstrap_servers, pipeline.group.topic))
    run_sql(
        pipeline.followers[FOLLOWER],
        "SET default_transaction_read_only = off",
        "SET session_replication_role = replica",
        f"UPDATE cdc.position SET next_offset = {offset}",
    )
    pipeline.start_apply()

    # Then it misses nothing all the same.
    pipeline.catch_up()
    pipeline.assert_equal()
