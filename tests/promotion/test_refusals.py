"""What keeps a promotion from starting, and how one is taken back: one line, exit code 3 or 4, and nothing changed."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from cdc.local.processes import wait_for
from connectors.postgres.replication import ReplicationStream
from tests.fixtures.pipeline import Pipelines
from tests.fixtures.servers import OwnPostgres
from tests.support.log import read_log
from tests.support.pipeline import FOLLOWER, LEADER, OTHER_FOLLOWER, Pipeline, rows_of, run_sql
from tests.support.promotion import (
    IN_SPITE_OF_DEFAULTS,
    LOADED,
    Clients,
    fails,
    in_epoch,
    leader_in,
    promote,
    state_of,
    takes_writes,
)

AS_APPLIER = "-c session_replication_role=replica -c default_transaction_read_only=off"
FENCED = "promote.fence"


@pytest.fixture
def pipeline(module_pipelines: Pipelines) -> Pipeline:
    """One group for all: nobody is promoted in it for long."""

    def build() -> Pipeline:
        pipeline = module_pipelines.new(*LOADED, followers=(FOLLOWER, OTHER_FOLLOWER))
        pipeline.init().bootstrap().start()
        pipeline.start_apply(LEADER)
        pipeline.catch_up()
        return pipeline

    return module_pipelines.kept("refusals", build)


@contextmanager
def nothing_changes(pipeline: Pipeline) -> Iterator[None]:
    """On every node, and in the log but for what capture writes."""
    before = {name: state_of(dsn) for name, dsn in pipeline.nodes.items()}
    yield
    assert {name: state_of(dsn) for name, dsn in pipeline.nodes.items()} == before
    assert runbook(pipeline) == [] or runbook(pipeline)[-1][1] == "abort"


def runbook(pipeline: Pipeline) -> list[tuple[str, str]]:
    """Promotion and step of what promotions wrote into the log."""
    metas = [event["cdc"] for event in read_log(pipeline.kafka_servers, pipeline.group.topic)]
    return [(meta["promotion"], meta["step"]) for meta in metas if meta.get("kind") == "runbook"]


def done_on(dsn: str, statement: str) -> bool:
    """Whether it could be done: a slot is in use until its walsender has noticed that nobody reads any more."""
    try:
        run_sql(dsn, statement)
    except psycopg.errors.ObjectInUse:
        return False
    return True


def as_applier(dsn: str, statement: str) -> None:
    with psycopg.connect(dsn, autocommit=True, options=AS_APPLIER) as connection:
        connection.execute(statement)


class TestLooking:
    def test_a_dry_run_shows_the_plan_and_touches_nothing(self, pipeline: Pipeline):
        with nothing_changes(pipeline):
            shown = pipeline.run("promote", "--follower", FOLLOWER, "--dry-run")
        for word in (
            f"{LEADER} leads, epoch 1",
            "planned",
            "CREATE OR REPLACE TRIGGER",
            "CREATE PUBLICATION",
            "demote",
        ):
            assert word in shown

    def test_without_a_follower_one_is_proposed_and_nothing_is_done(self, pipeline: Pipeline):
        with nothing_changes(pipeline):
            shown = pipeline.run("promote")
        proposed = [name for name in pipeline.followers if f"cdc promote --follower {name}" in shown]
        assert len(proposed) == 1, shown

    def test_the_leader_is_known_from_the_log(self, pipeline: Pipeline):
        told = json.loads(pipeline.run("leader", "--json"))
        assert (told["leader"], told["epoch"], "password" in told) == (LEADER, 1, False)
        assert rows_of(pipeline.run("leader", "--dsn").strip(), "SELECT current_database()") == rows_of(
            pipeline.nodes[LEADER], "SELECT current_database()"
        )
        assert pipeline.run("leader").strip() == LEADER
        assert "leads already" in pipeline.run("promote", "--follower", LEADER)


class TestRefusals:
    def test_a_follower_whose_applier_does_not_run(self, pipeline: Pipeline):
        pipeline.group.stop(f"apply {FOLLOWER}")
        with nothing_changes(pipeline):
            line = fails(pipeline, 3, "promote", "--follower", FOLLOWER)
        assert f"no applier runs for {FOLLOWER}: cdc apply --follower {FOLLOWER}" in line
        pipeline.start_apply(FOLLOWER)
        pipeline.catch_up()

    def test_no_capture_though_something_else_streams(self, pipeline: Pipeline):
        pipeline.group.stop("capture")
        run_sql(pipeline.leader, "SELECT pg_create_logical_replication_slot('not_of_the_group', 'pgoutput')")
        with ReplicationStream(pipeline.leader, "test", LEADER) as stream:
            stream.start("not_of_the_group", pipeline.group.slot, 0)
            with nothing_changes(pipeline):
                line = fails(pipeline, 3, "promote", "--follower", FOLLOWER)
        assert f"no capture streams from {LEADER}" in line
        drop = "SELECT pg_drop_replication_slot('not_of_the_group')"
        assert wait_for(lambda: done_on(pipeline.leader, drop), seconds=10)
        pipeline.start_capture()
        pipeline.catch_up()

    @pytest.mark.long
    def test_a_follower_that_holds_more_than_the_log(self, pipeline: Pipeline):
        dsn = pipeline.nodes[FOLLOWER]
        pipeline.group.stop(f"apply {FOLLOWER}")
        as_applier(dsn, "UPDATE cdc.position SET commit_lsn = commit_lsn + 1000000000")
        with nothing_changes(pipeline):
            line = fails(pipeline, 3, "promote", "--follower", FOLLOWER)
        assert "past the end of the log" in line
        as_applier(dsn, "UPDATE cdc.position SET commit_lsn = commit_lsn - 1000000000")
        pipeline.start_apply(FOLLOWER)
        pipeline.catch_up()

    def test_a_follower_that_is_behind_another_one(self, pipeline: Pipeline):
        # Given a follower that cannot go on, because somebody holds a table that it writes.
        with psycopg.connect(pipeline.nodes[FOLLOWER], options=IN_SPITE_OF_DEFAULTS) as holder:
            holder.execute("LOCK TABLE receipt IN SHARE MODE")
            pipeline.execute("INSERT INTO receipt VALUES (-1)", "DELETE FROM receipt WHERE id = -1")
            pipeline.catch_up(OTHER_FOLLOWER)
            # Then it is refused, and the other one is proposed.
            with nothing_changes(pipeline):
                line = fails(pipeline, 3, "promote", "--follower", FOLLOWER)
                assert f"cdc promote --follower {OTHER_FOLLOWER}" in pipeline.run("promote")
            assert f"{OTHER_FOLLOWER} is ahead of {FOLLOWER}" in line
            assert "--force" in line
        pipeline.catch_up()

    def test_a_node_that_is_not_in_the_configuration(self, pipeline: Pipeline):
        line = fails(pipeline, 2, "promote", "--follower", "nowhere")
        assert "no node nowhere" in line

    @pytest.mark.parametrize("where", ["missing/report.json", "taken/report.json"])
    def test_a_report_that_cannot_be_written(self, pipeline: Pipeline, tmp_path: Path, where: str):
        (tmp_path / "taken").touch()
        with nothing_changes(pipeline):
            line = fails(pipeline, 3, "promote", "--follower", FOLLOWER, "--report", str(tmp_path / where))
        assert f"{tmp_path / where}: the report cannot be written: " in line
        assert rows_of(pipeline.nodes[FOLLOWER], "SELECT FROM cdc.promotion WHERE outcome IS NULL") == []

    def test_nothing_to_abort(self, pipeline: Pipeline):
        with nothing_changes(pipeline):
            assert "no promotion is under way" in fails(pipeline, 3, "promote", "--abort")


@pytest.mark.long
class TestUnfit:
    """Groups of their own: what is wrong with the follower cannot be put right in between."""

    def test_a_follower_that_cannot_lead(self, pipelines: Pipelines, own_postgres: OwnPostgres):
        server = own_postgres(settings={"wal_level": "replica"})
        pipeline = pipelines.new(*LOADED, follower=server).init()
        with nothing_changes(pipeline):
            line = fails(pipeline, 3, "promote", "--follower", FOLLOWER)
        assert f"cdc bootstrap --follower {FOLLOWER}" in line
        pipeline.bootstrap().start()
        pipeline.catch_up()
        with nothing_changes(pipeline):
            assert "wal_level" in fails(pipeline, 3, "promote", "--follower", FOLLOWER)
        server.stop("immediate")
        line = fails(pipeline, 3, "promote", "--follower", FOLLOWER)
        assert f"{FOLLOWER} cannot be reached" in line
        assert takes_writes(pipeline.leader)


class TestOpenTransactions:
    def test_they_get_the_grace_and_then_are_ended(self, pipeline: Pipeline):
        # Given one that commits within the grace, and one that never would.
        committed = threading.Event()

        def commit_soon() -> None:
            with psycopg.connect(pipeline.leader) as connection:
                connection.execute("UPDATE account SET note = 'in time' WHERE id = 1")
                begun.set()
                time.sleep(2)
                connection.commit()
            committed.set()

        begun = threading.Event()
        soon = threading.Thread(target=commit_soon, daemon=True)
        soon.start()
        with psycopg.connect(pipeline.leader) as idle:
            idle.execute("UPDATE counter SET n = n")
            assert begun.wait(10)
            # When the leader is closed for writes.
            killed = pipeline.group.run("promote", "--follower", FOLLOWER, "--grace", "8", failpoint=FENCED)
            assert killed.returncode == -9, killed.stderr
            soon.join(30)
            # Then the one is committed, the other one is gone, and nobody writes.
            assert committed.is_set()
            with pytest.raises(psycopg.OperationalError):
                idle.execute("SELECT 1")
        assert not takes_writes(pipeline.leader)
        # And it can be taken back: the leader takes writes, and all goes on.
        assert f"aborted: {LEADER} leads on, in epoch 1" in pipeline.run("promote", "--abort")
        assert takes_writes(pipeline.leader)
        pipeline.execute("UPDATE counter SET n = n + 0")
        pipeline.catch_up()
        pipeline.assert_equal("public.")
        assert [step for _, step in runbook(pipeline)][-2:] == ["begin", "abort"]

    @pytest.mark.long
    def test_a_prepared_transaction_is_named_and_its_leader_can_be_opened_again(
        self, pipelines: Pipelines, own_postgres: OwnPostgres
    ):
        pipeline = pipelines.new(*LOADED, leader=own_postgres(settings={"max_prepared_transactions": "5"}))
        pipeline.init().bootstrap().start()
        pipeline.catch_up()
        pipeline.transact("INSERT INTO receipt VALUES (-2)", "PREPARE TRANSACTION 'forgotten'")
        line = fails(pipeline, 3, "promote", "--follower", FOLLOWER, "--grace", "0")
        assert "a prepared transaction holds table public.receipt" in line
        assert "aborted" in pipeline.run("promote", "--abort")
        assert takes_writes(pipeline.leader)
        run_sql(pipeline.leader, "COMMIT PREPARED 'forgotten'")
        pipeline.catch_up()
        promote(pipeline, FOLLOWER)
        assert rows_of(pipeline.nodes[FOLLOWER], "SELECT id FROM receipt") == [(-2,)]


class TestAbort:
    @pytest.mark.parametrize(
        "step",
        [pytest.param("begin", marks=pytest.mark.long), "fence", pytest.param("publish", marks=pytest.mark.long)],
    )
    def test_before_the_epoch_record_everything_goes_on(self, pipeline: Pipeline, step: str):
        with Clients({LEADER: pipeline.leader}) as clients:
            clients.transact(10)
            killed = pipeline.group.run("promote", "--follower", FOLLOWER, failpoint=f"promote.{step}")
            assert killed.returncode == -9, killed.stderr
            pipeline.run("promote", "--abort")
            clients.transact(20)
        pipeline.catch_up()
        pipeline.assert_equal("public.")
        assert rows_of(pipeline.nodes[FOLLOWER], "SELECT FROM cdc.promotion WHERE outcome IS NULL") == []
        assert leader_in(pipeline) == LEADER

    def test_after_it_there_is_no_way_back(self, module_pipelines: Pipelines, pipeline: Pipeline):
        killed = pipeline.group.run("promote", "--follower", FOLLOWER, failpoint="promote.epoch")
        assert killed.returncode == -9, killed.stderr
        line = fails(pipeline, 4, "promote", "--abort")
        assert "cannot be taken back" in line
        assert f"complete it: cdc promote --follower {FOLLOWER}" in line
        assert not takes_writes(pipeline.leader)
        promote(pipeline, FOLLOWER)
        in_epoch(pipeline, 2, FOLLOWER)
        pipeline.close()

    @pytest.mark.long
    def test_without_the_chosen_follower_the_leader_can_be_opened_again(
        self, pipelines: Pipelines, own_postgres: OwnPostgres
    ):
        server = own_postgres()
        pipeline = pipelines.new(*LOADED, follower=server).init().bootstrap().start()
        pipeline.catch_up()
        assert pipeline.group.run("promote", "--follower", FOLLOWER, failpoint=FENCED).returncode == -9
        server.kill()
        assert "aborted" in pipeline.run("promote", "--abort")
        assert takes_writes(pipeline.leader)


def test_libpq_finds_the_leader_before_and_after(pipelines: Pipelines):
    # Given a client that knows all hosts, and asks libpq for the one that takes writes.
    pipeline = pipelines.new(*LOADED).init().bootstrap().start()
    pipeline.catch_up()
    where = "SELECT current_database()"

    def found() -> str:
        for dsn in reversed(pipeline.nodes.values()):
            try:
                with psycopg.connect(dsn, target_session_attrs="read-write") as connection:
                    return str(connection.execute(where).fetchall())
            except psycopg.OperationalError:
                continue
        raise AssertionError("no host takes writes")

    assert found() == str(rows_of(pipeline.nodes[LEADER], where))
    promote(pipeline, FOLLOWER)
    assert found() == str(rows_of(pipeline.nodes[FOLLOWER], where))
    assert wait_for(lambda: not takes_writes(pipeline.nodes[LEADER]), seconds=5)
