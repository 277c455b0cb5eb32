"""An applier dies without a word, at any moment: its follower shows whole transactions only, each once."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from cdc import failpoints
from cdc.local.processes import wait_for
from tests.fixtures.pipeline import Pipelines
from tests.support.bank import BANK, Bank, BankWatch, a_moment, transfer
from tests.support.pipeline import FOLLOWER, Pipeline, rows_of
from tests.support.watched import APPLY

pytestmark = pytest.mark.faults

OTHERS = (
    # Without a key: a row that arrives twice is there twice, and no constraint hides it.
    "CREATE TABLE receipt (n bigint)",
    "ALTER TABLE receipt REPLICA IDENTITY FULL",
    "CREATE FUNCTION receipt() RETURNS trigger LANGUAGE plpgsql AS "
    "'BEGIN INSERT INTO public.receipt VALUES (NEW.n); RETURN NULL; END'",
    "CREATE TRIGGER receipt AFTER INSERT ON ledger FOR EACH ROW EXECUTE FUNCTION receipt()",
    # What giant transactions change last.
    "CREATE TABLE finale (id int PRIMARY KEY, n bigint NOT NULL)",
    "INSERT INTO finale VALUES (1, 0)",
)
GIANT_TRANSFERS = 8_000
"""Four changes each: more than three pieces of ten thousand."""


@pytest.fixture
def pipeline(module_pipelines: Pipelines) -> Pipeline:
    """The bank on a leader, and everything running."""

    def build() -> Pipeline:
        return module_pipelines.new(*BANK, *OTHERS).init().bootstrap().start()

    return module_pipelines.kept("bank", build)


@contextmanager
def under_load(pipeline: Pipeline) -> Iterator[Bank]:
    """The bank works meanwhile; in the end, every look at the follower was right and all rows are there once."""
    with BankWatch(pipeline.followers[FOLLOWER]) as watch:
        with Bank(pipeline.leader) as bank:
            bank.transacts(10)
            yield bank
            bank.transacts(30)
        pipeline.catch_up()
        watch.check()
    pipeline.assert_equal()


def giant(pipeline: Pipeline, chance: random.Random) -> None:
    with psycopg.connect(pipeline.leader) as connection:
        transfer(connection, chance, GIANT_TRANSFERS)
        connection.execute("UPDATE finale SET n = n + 1")


@contextmanager
def finale_locked(pipeline: Pipeline) -> Iterator[int]:
    """The applier waits meanwhile where it would write the table `finale`; gives the backend that it waits for."""
    dsn = pipeline.followers[FOLLOWER]
    with psycopg.connect(dsn, options="-c default_transaction_read_only=off") as keeper:
        keeper.execute("SELECT FROM finale FOR UPDATE")
        yield keeper.info.backend_pid


def wait_for_applier_behind(pipeline: Pipeline, keeper: int, *, other_than: int = 0) -> int:
    """The applier's backend, once it waits for a lock of `keeper`."""
    query = (
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'cdc apply%' "
        f"AND {keeper} = ANY (pg_blocking_pids(pid)) AND pid <> {other_than}"
    )
    found: list[int] = []

    def look() -> bool:
        found.extend(pid for (pid,) in rows_of(pipeline.followers[FOLLOWER], query))
        return bool(found)

    assert wait_for(look, seconds=30), pipeline.group.tail_of_logs()
    return found[0]


def test_kills_at_random_moments_lose_and_double_nothing(pipeline: Pipeline):
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    chance = random.Random(seed)
    with under_load(pipeline) as bank:
        for _ in range(3):
            bank.transacts(20)
            a_moment(chance, 0.7)
            pipeline.group.kill(APPLY)
            pipeline.start_apply()


@pytest.mark.parametrize("failpoint", [failpoints.APPLY_BEFORE_COMMIT, failpoints.APPLY_AFTER_COMMIT])
def test_a_kill_around_the_commit_neither_repeats_nor_skips_it(pipeline: Pipeline, failpoint: str):
    with under_load(pipeline) as bank:
        for _ in range(2):
            pipeline.group.kill(APPLY)
            before = pipeline.position()
            bank.transacts(5)
            pipeline.start_apply(failpoint=failpoint)
            assert pipeline.ends(APPLY) == -signal.SIGKILL
            assert (pipeline.position() > before) == (failpoint == failpoints.APPLY_AFTER_COMMIT)
        pipeline.start_apply(failpoint=f"{failpoint}:7")
        assert pipeline.ends(APPLY) == -signal.SIGKILL
        pipeline.start_apply()


def test_a_kill_in_the_middle_of_a_giant_transaction_shows_no_part_of_it(pipeline: Pipeline):
    follower = pipeline.followers[FOLLOWER]
    size = "SELECT pg_relation_size('ledger')"
    with under_load(pipeline):
        before = rows_of(follower, size)[0][0]
        with finale_locked(pipeline) as keeper:
            start = pipeline.mark()
            with psycopg.connect(pipeline.leader) as connection:
                transfer(connection, random.Random(1), GIANT_TRANSFERS)
                connection.execute("UPDATE finale SET n = n + 1")
            end = pipeline.mark()
            wait_for_applier_behind(pipeline, keeper)
            assert rows_of(follower, size)[0][0] > before + GIANT_TRANSFERS * 50, "most of it is written"
            pipeline.group.kill(APPLY)
            assert start - 1 <= pipeline.position() < end
        pipeline.start_apply()
        pipeline.wait_applied(end)


def test_the_next_applier_takes_over_from_one_that_was_killed_while_it_waited_for_a_lock(pipeline: Pipeline):
    with under_load(pipeline):
        with finale_locked(pipeline) as keeper:
            pipeline.execute("UPDATE finale SET n = n + 1")
            dead = wait_for_applier_behind(pipeline, keeper)
            pipeline.group.kill(APPLY)
            pipeline.start_apply()
            wait_for_applier_behind(pipeline, keeper, other_than=dead)
        pipeline.check_running(APPLY)
