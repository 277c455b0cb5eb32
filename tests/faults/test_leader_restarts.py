"""The leader dies and returns again and again, and returns as it was yesterday."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest

from cdc.local import KafkaServer, PostgresServer
from tests.fixtures.pipeline import Pipelines
from tests.fixtures.servers import OwnPostgres
from tests.support.bank import BANK
from tests.support.contents import digests
from tests.support.pipeline import FOLLOWER, Pipeline, rows_of
from tests.support.watched import APPLY, recovers, watched_bank

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]


@contextmanager
def checkpoints(server: PostgresServer) -> Iterator[None]:
    """One after the other all the time, whenever the server is there."""
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(0.1):
            with suppress(psycopg.Error), psycopg.connect(server.dsn(), autocommit=True, connect_timeout=5) as leader:
                while not stop.wait(0.2):
                    leader.execute("CHECKPOINT")

    thread = threading.Thread(target=run, name="checkpoints", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(20)


@pytest.mark.newest_first
@pytest.mark.parametrize("times", [6, pytest.param(200, marks=[pytest.mark.long, pytest.mark.timeout(2400)])])
def test_a_leader_that_crashes_between_checkpoints_again_and_again_leaves_no_gap(
    pipelines: Pipelines, own_postgres: OwnPostgres, postgres_version: int, kafka: KafkaServer, times: int
):
    server = own_postgres()
    pipeline = pipelines.new(*BANK, version=postgres_version, leader=server).init().bootstrap().start()
    with watched_bank(pipeline, kafka.bootstrap_servers) as bank, checkpoints(server):
        for _ in range(times):
            bank.transacts(10)
            server.restart("immediate")
        recovers(pipeline, f"{times} crashes of the leader")


PREPARED = "CREATE TABLE doubt (id int PRIMARY KEY, x text)"


@pytest.mark.long
@pytest.mark.newest_first
def test_transactions_prepared_before_capture_and_leader_die_are_decided_after_it(
    pipelines: Pipelines, own_postgres: OwnPostgres, postgres_version: int, kafka: KafkaServer
):
    server = own_postgres(settings={"max_prepared_transactions": "5"})
    pipeline = pipelines.new(*BANK, PREPARED, version=postgres_version, leader=server).init().bootstrap().start()
    with watched_bank(pipeline, kafka.bootstrap_servers) as bank:
        for number, name in enumerate(("kept", "late", "gone")):
            pipeline.transact(
                f"INSERT INTO doubt SELECT i, '{name}' FROM generate_series({number * 1000}, {number * 1000 + 99}) i",
                f"PREPARE TRANSACTION '{name}'",
            )
        bank.transacts(20)
        pipeline.group.kill("capture")
        pipeline.execute("COMMIT PREPARED 'kept'")
        pipeline.start_capture()
        recovers(pipeline, "capture killed")
        pipeline.group.kill("capture")
        server.restart("immediate")
        pipeline.start_capture()
        pipeline.execute("ROLLBACK PREPARED 'gone'", "COMMIT PREPARED 'late'")
        recovers(pipeline, "capture killed, leader crashed")
    found = rows_of(pipeline.followers[FOLLOWER], "SELECT x, count(*) FROM doubt GROUP BY x ORDER BY x")
    assert found == [("kept", 100), ("late", 100)]


class Backup:
    """The data of a stopped server, to be put back later."""

    def __init__(self, server: PostgresServer, folder: Path) -> None:
        self._server = server
        self._copy = folder / "backup"
        self._copied(server.data_dir, self._copy)

    def restore(self) -> None:
        shutil.rmtree(self._server.data_dir)
        self._copied(self._copy, self._server.data_dir)

    def _copied(self, source: Path, target: Path) -> None:
        subprocess.run(["cp", "-a", source, target], check=True, timeout=120)  # noqa: S607 - owners stay


@pytest.mark.newest_first
def test_a_leader_restored_from_a_backup_stops_capture_and_no_follower_is_touched(
    pipelines: Pipelines, own_postgres: OwnPostgres, postgres_version: int, tmp_path: Path
):
    # Given a follower that holds what was written after a backup of its leader.
    server = own_postgres()
    pipeline = pipelines.new(*BANK, version=postgres_version, leader=server).init().bootstrap().start()
    pipeline.execute("UPDATE account SET balance = balance - 1 WHERE id = 1")
    pipeline.catch_up()
    server.stop()
    backup = Backup(server, tmp_path)
    server.start()
    pipeline.execute(*["UPDATE account SET note = 'written after the backup'"] * 3)
    pipeline.catch_up()
    assert pipeline.group.stop("capture") == 0

    # When that backup is put back.
    server.stop()
    backup.restore()
    server.start()
    before, position = digests(pipeline.followers[FOLLOWER]), pipeline.position()

    # Then capture says so, whether the leader's WAL is still shorter than the log or has grown past it.
    pipeline.start_capture()
    stops_for_an_older_leader(pipeline)
    write_past(pipeline, position)
    pipeline.start_capture()
    stops_for_an_older_leader(pipeline)
    pipeline.check_running(APPLY)
    assert digests(pipeline.followers[FOLLOWER]) == before
    assert pipeline.position() == position


def stops_for_an_older_leader(pipeline: Pipeline) -> None:
    assert pipeline.ends("capture", seconds=60) == 4
    last = pipeline.log_of("capture").splitlines()[-1]
    assert "the leader was restored to an older state" in last
    assert "To do: start a new group" in last


def write_past(pipeline: Pipeline, lsn: int) -> None:
    """Other transactions than those that the backup lacks, until the WAL is longer than it was."""
    while pipeline.mark() < lsn + 2**20:
        pipeline.execute("UPDATE account SET note = repeat(md5(note), 100), balance = balance + 1")
