"""Timeouts that an operator gave a database are for its users: they do not cut replication off."""

from __future__ import annotations

from collections.abc import Iterable

from tests.fixtures.pipeline import Pipelines
from tests.support.pipeline import QUICK_HEARTBEAT, set_for_database

TIMEOUTS = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "idle_session_timeout")


def test_timeouts_of_the_databases_do_not_end_a_session_of_ours(pipelines: Pipelines, postgres_version: int):
    # Given a leader and a follower whose sessions end after less than half a second of anything.
    names = [*TIMEOUTS, *(["transaction_timeout"] if postgres_version >= 17 else [])]

    def give(timeout: str, dsns: Iterable[str]) -> None:
        for dsn in dsns:
            set_for_database(dsn, **dict.fromkeys(names, timeout))

    pipeline = pipelines.new(
        "CREATE TABLE item (id int PRIMARY KEY, v text)", version=postgres_version,
        prepare=lambda leader, followers: give("400ms", [leader, *followers]),
        extra=QUICK_HEARTBEAT.replace("0.2", "0.8"),
    )  # fmt: skip
    pipeline.init().bootstrap().start()

    # When there is a transaction that takes longer to travel, and then nothing.
    patient = " ".join(f"-c {name}=0" for name in names)
    pipeline.execute(
        "INSERT INTO item SELECT i, repeat('x', 200) FROM generate_series(1, 80000) i", "SELECT pg_sleep(0.9)",
        settings=patient,
    )  # fmt: skip
    pipeline.catch_up()

    # Then all is there, and nobody had to connect again.
    give("0", [pipeline.leader, *pipeline.followers.values()])
    pipeline.assert_equal()
    for name in ("capture", "apply eu-west"):
        assert "trying again" not in pipeline.log_of(name)
