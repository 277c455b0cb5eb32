"""Two bootstraps of one follower at the same time do not clear each other's rows."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import psycopg

from cdc.local.processes import wait_for
from tests.fixtures.pipeline import Pipelines
from tests.support.pipeline import FOLLOWER, rows_of


def test_second_bootstrap_of_a_follower_leaves_the_first_alone(pipelines: Pipelines):
    # Given a bootstrap that waits for an open transaction of the leader, as every snapshot must.
    pipeline = pipelines.new(
        "CREATE TABLE item AS SELECT generate_series(1, 1000) AS id", tables=("public.item",)
    ).init()
    with ThreadPoolExecutor(1) as thread, psycopg.connect(pipeline.leader) as connection:
        connection.execute("SELECT pg_current_xact_id()")
        first = thread.submit(pipeline.group.run, "bootstrap", "--follower", FOLLOWER)
        query = "SELECT count(*) FROM pg_replication_slots WHERE temporary AND slot_name LIKE '{}%'"
        waits = wait_for(lambda: rows_of(pipeline.leader, query.format(pipeline.group.slot)) == [(1,)], seconds=30)
        assert waits

        # When another one is started, then it says so and ends.
        second = pipeline.group.run("bootstrap", "--follower", FOLLOWER)
        assert second.returncode == 4
        assert (
            second.stderr.splitlines()[-1]
            == f"cdc: {FOLLOWER}: another bootstrap works on this follower. To do: let it end"
        )

        # And the first one ends well.
        connection.rollback()
        done = first.result(60)
    assert done.returncode == 0, done.stderr
    pipeline.assert_equal()
