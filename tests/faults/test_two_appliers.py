"""Two appliers of one follower, one of which stood still: the other one's work is not done again."""

from __future__ import annotations

import pytest
from confluent_kafka import Consumer, TopicPartition

from cdc.local import KafkaServer
from cdc.local.processes import wait_for_end
from tests.fixtures.pipeline import Pipelines
from tests.support.bank import BANK
from tests.support.pausing import paused
from tests.support.pipeline import FOLLOWER, run_sql
from tests.support.watched import APPLY, recovers, watched_bank

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

# Without a key: a row that arrives twice is there twice, and no constraint hides it.
RECEIPTS = (
    "CREATE TABLE receipt (n bigint)",
    "ALTER TABLE receipt REPLICA IDENTITY FULL",
    "CREATE FUNCTION receipt() RETURNS trigger LANGUAGE plpgsql AS "
    "'BEGIN INSERT INTO public.receipt VALUES (NEW.n); RETURN NULL; END'",
    "CREATE TRIGGER receipt AFTER INSERT ON ledger FOR EACH ROW EXECUTE FUNCTION receipt()",
)
END_BACKENDS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE datname = current_database() AND application_name LIKE 'cdc apply%'"
)


def test_an_applier_that_wakes_up_after_another_one_took_over_applies_nothing_and_ends(
    pipelines: Pipelines, kafka: KafkaServer
):
    pipeline = pipelines.new(*BANK, *RECEIPTS).init().bootstrap().start()
    follower = pipeline.followers[FOLLOWER]
    first = pipeline.group.daemon(APPLY)
    with watched_bank(pipeline, kafka.bootstrap_servers, pause_seconds=0.0) as bank:
        bank.transacts(50)
        with paused(first):
            run_sql(follower, END_BACKENDS)
            bank.transacts(50)
            pipeline.start_apply()
            recovers(pipeline, "the second applier took over")
            bank.transacts(50)
        assert wait_for_end(first, 60), pipeline.group.tail_of_logs()
        assert first.returncode == 4
        assert "another applier works on this follower" in pipeline.log_of(APPLY)
        bank.transacts(50)


def commit_far_ahead(kafka: KafkaServer, topic: str, group: str) -> None:
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap_servers, "group.id": group, "log_level": 0})
    try:
        _, high = consumer.get_watermark_offsets(TopicPartition(topic, 0), 20)
        consumer.commit(offsets=[TopicPartition(topic, 0, high + 100)], asynchronous=False)
    finally:
        consumer.close()


@pytest.mark.long
def test_group_offsets_that_somebody_commits_to_kafka_move_no_applier(pipelines: Pipelines, kafka: KafkaServer):
    """Followers keep their own position; whatever a consumer group says is nobody's business."""
    pipeline = pipelines.new(*BANK).init().bootstrap().start()
    pipeline.catch_up()
    assert pipeline.group.stop(APPLY) == 0
    pipeline.execute("UPDATE account SET balance = balance + 1 WHERE id = 1", "UPDATE counter SET n = n")
    commit_far_ahead(kafka, pipeline.group.topic, f"cdc-{pipeline.name}-apply-{FOLLOWER}-unused")
    pipeline.start_apply()
    pipeline.catch_up()
    pipeline.assert_equal()
