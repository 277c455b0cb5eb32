"""Capture dies without a word, at any moment: the log goes on without a gap, and every follower gets all of it once."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cdc import failpoints
from cdc.local import KafkaServer
from cdc.local.processes import wait_for
from connectors.kafka.consumer import LogReader
from connectors.kafka.settings import common_settings
from tests.fixtures.pipeline import Pipelines
from tests.support.bank import BANK, Bank, BankWatch, a_moment
from tests.support.pipeline import FOLLOWER, Pipeline
from tests.support.slot_watch import SlotWatch

pytestmark = pytest.mark.faults

# Without a key: a row that arrives twice is there twice, and no constraint hides it.
RECEIPTS = (
    "CREATE TABLE receipt (n bigint)",
    "ALTER TABLE receipt REPLICA IDENTITY FULL",
    "CREATE FUNCTION receipt() RETURNS trigger LANGUAGE plpgsql AS "
    "'BEGIN INSERT INTO public.receipt VALUES (NEW.n); RETURN NULL; END'",
    "CREATE TRIGGER receipt AFTER INSERT ON ledger FOR EACH ROW EXECUTE FUNCTION receipt()",
)
GIANT_ROWS = 20_000
# Between its two halves the total of the bank is another one, so that a part of it would be seen.
GIANT = (
    f"UPDATE counter SET n = n + {GIANT_ROWS}",
    "UPDATE account SET balance = balance - 5 WHERE id % 2 = 0",
    "INSERT INTO ledger (n, source, target, amount, details) SELECT counter.n - g + 1, 2, 1, 5, "
    f"jsonb_build_object('filler', repeat(md5(g::text), 6)) FROM counter, generate_series(1, {GIANT_ROWS}) g",
    "UPDATE account SET balance = balance + 5 WHERE id % 2 = 1",
)


@pytest.fixture
def pipeline(module_pipelines: Pipelines) -> Pipeline:
    """The bank on a leader, and everything running."""

    def build() -> Pipeline:
        return module_pipelines.new(*BANK, *RECEIPTS).init().bootstrap().start()

    return module_pipelines.kept("bank", build)


@contextmanager
def under_load(pipeline: Pipeline, kafka: KafkaServer) -> Iterator[Bank]:
    """The bank works meanwhile; in the end, every look at follower and slot was right and all rows are there once."""
    servers = kafka.bootstrap_servers
    with BankWatch(pipeline.followers[FOLLOWER]) as watch, SlotWatch(pipeline, servers) as slot:
        with Bank(pipeline.leader) as bank:
            bank.transacts(10)
            yield bank
            bank.transacts(30)
        pipeline.catch_up()
        watch.check()
        slot.check()
    pipeline.assert_equal()


def test_kills_at_random_moments_lose_and_double_nothing(pipeline: Pipeline, kafka: KafkaServer):
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    chance = random.Random(seed)
    with under_load(pipeline, kafka) as bank:
        for _ in range(3):
            bank.transacts(20)
            a_moment(chance, 0.7)
            pipeline.group.kill("capture")
            pipeline.start_capture()


def test_kills_beside_a_leader_that_is_reached_by_its_unix_socket(pipelines: Pipelines, kafka: KafkaServer):
    """What comes fast is read in another way there (connectors/postgres/pace.py)."""
    pipeline = pipelines.new(*BANK, *RECEIPTS, by_socket=True).init().bootstrap().start()
    with under_load(pipeline, kafka) as bank:
        for _ in range(2):
            pipeline.transact(*GIANT)
            bank.transacts(5)
            pipeline.group.kill("capture")
            pipeline.start_capture()


@pytest.mark.parametrize("failpoint", [failpoints.CAPTURE_PRODUCED, failpoints.CAPTURE_DELIVERED])
def test_a_kill_before_the_slot_is_confirmed_loses_and_doubles_nothing(
    pipeline: Pipeline, kafka: KafkaServer, failpoint: str
):
    with under_load(pipeline, kafka):
        for turn in (1, 6):
            pipeline.group.kill("capture")
            pipeline.start_capture(failpoint=f"{failpoint}:{turn}")
            assert pipeline.ends("capture") == -signal.SIGKILL
        pipeline.start_capture()


def test_kills_in_the_middle_of_a_giant_transaction_lose_and_double_nothing(pipeline: Pipeline, kafka: KafkaServer):
    pipeline.group.kill("capture")
    pipeline.transact(*GIANT)
    end = pipeline.mark()
    with under_load(pipeline, kafka):
        for turn in (1, 3):
            pipeline.start_capture(failpoint=f"{failpoints.CAPTURE_MID_TRANSACTION}:{turn}")
            assert pipeline.ends("capture") == -signal.SIGKILL
            assert pipeline.position() < end
        pipeline.start_capture()


def test_a_transaction_whose_first_part_is_in_the_log_goes_on_and_arrives_once(pipeline: Pipeline, kafka: KafkaServer):
    settings = common_settings(kafka.bootstrap_servers, "test")
    with under_load(pipeline, kafka), LogReader(settings, pipeline.group.topic) as reader:
        for _ in range(5):
            pipeline.catch_up()
            before = reader.watermarks()[1]
            pipeline.transact(*GIANT)
            wait_for_records(reader, before + GIANT_ROWS // 10)
            pipeline.group.kill("capture")
            tail = reader.read_tail()
            assert tail is not None
            if tail.partial_seq > GIANT_ROWS // 20:
                break
            pipeline.start_capture()  # it was faster than we; once more
        else:
            pytest.fail("capture is never met in the middle of a transaction")
        assert pipeline.position() < tail.partial_commit_lsn
        pipeline.start_capture()


def wait_for_records(reader: LogReader, offset: int) -> None:
    """Until the log has grown past `offset`."""
    assert wait_for(lambda: reader.watermarks()[1] > offset, seconds=30, pause=0.005), "capture publishes nothing"
