"""The old leader comes back: what only it has is saved, nothing is overwritten silently, and it follows."""

from __future__ import annotations

import json
from pathlib import Path

import psycopg
import pytest

from cdc.local import PostgresServer
from cdc.local.processes import wait_for
from tests.fixtures.pipeline import Pipelines
from tests.fixtures.servers import OwnPostgres
from tests.support.pipeline import FOLLOWER, LEADER, OTHER_FOLLOWER, Pipeline, rows_of, run_sql
from tests.support.promotion import fails, in_epoch, promote, state_of

TABLES = (
    "CREATE TABLE item (id int PRIMARY KEY, v text, big text)",
    "ALTER TABLE item ALTER big SET STORAGE EXTERNAL",
    "CREATE TABLE pair (a int, b text, v int, PRIMARY KEY (a, b))",
    "CREATE TABLE bag (v text)",
    "ALTER TABLE bag REPLICA IDENTITY FULL",
    "CREATE TABLE log (id serial PRIMARY KEY, note text)",
    "INSERT INTO item SELECT i, 'v' || i, repeat(md5(i::text), 200) FROM generate_series(1, 300) i",
    "INSERT INTO pair SELECT i, 'b''' || i, i FROM generate_series(1, 300) i",
    "INSERT INTO bag SELECT 'x' FROM generate_series(1, 5)",
)
ONLY_THERE = (
    "UPDATE item SET v = 'only there' WHERE id <= 10",
    "INSERT INTO item VALUES (1001, 'only there', 'b')",
    "DELETE FROM pair WHERE a BETWEEN 20 AND 30",
    "UPDATE pair SET b = b || '?' WHERE a = 40",
    "INSERT INTO bag VALUES ('only there')",
    "TRUNCATE log",
)
MEANWHILE = (
    "INSERT INTO item VALUES (1001, 'new leader', NULL), (1002, 'new leader', NULL)",
    "UPDATE item SET v = 'changed' WHERE id BETWEEN 5 AND 15",
    "DELETE FROM item WHERE id = 200",
    "UPDATE pair SET a = a + 1000 WHERE a = 25",
    "DELETE FROM bag WHERE ctid = (SELECT min(ctid) FROM bag)",
    "INSERT INTO log (note) VALUES ('new leader')",
)


@pytest.fixture
def server(own_postgres: OwnPostgres) -> PostgresServer:
    return own_postgres()


def failed_over(pipelines: Pipelines, server: PostgresServer, version: int, *only_there: str) -> Pipeline:
    """A group whose leader died with transactions that no other node has, and whose new leader has gone on."""
    pipeline = pipelines.new(*TABLES, version=version, leader=server, followers=(FOLLOWER, OTHER_FOLLOWER))
    pipeline.init().bootstrap().start()
    pipeline.execute("INSERT INTO log (note) VALUES ('before')")
    pipeline.catch_up()
    pipeline.group.kill("capture")
    pipeline.execute(*only_there)
    server.kill()
    report = promote(pipeline, FOLLOWER, "--leader-is-dead", "power cut")
    assert report["steps"][-1]["result"] == "nothing streams yet"
    assert "start cdc capture: nothing streams from the new leader yet" in report["remaining"]
    pipeline.start_capture()
    run_sql(pipeline.nodes[FOLLOWER], *MEANWHILE)
    server.start()
    return pipeline


@pytest.mark.newest_first
def test_its_tail_is_exported_and_its_rows_become_the_leaders(
    pipelines: Pipelines, server: PostgresServer, postgres_version: int, tmp_path: Path
):
    # Given an old leader that is back with transactions of its own.
    pipeline = failed_over(pipelines, server, postgres_version, *ONLY_THERE)
    old, file = pipeline.nodes[LEADER], tmp_path / "tail.jsonl"
    before = rows_of(old, "SELECT * FROM item ORDER BY id")

    # When it is only looked at, then it is told what it has, and nothing changes.
    looked = json.loads(pipeline.run("rejoin", "--node", LEADER, "--dry-run", "--json"))
    assert (looked["tail_transactions"], looked["position"]) == (len(ONLY_THERE), None)
    # When its file cannot be written, then nothing changes either.
    (tmp_path / "taken").touch()
    state = state_of(old)
    for name in ("taken/tail.jsonl", "missing/tail.jsonl", "x" * 300):
        unwritable = tmp_path / name
        line = fails(pipeline, 3, "rejoin", "--node", LEADER, "--discard-tail", "--file", str(unwritable))
        assert f"{unwritable}: the file cannot be written: " in line
    assert state_of(old) == state
    run_sql(old, "CREATE TABLE still_open ()")

    # When it rejoins without more, then the tail is saved and nothing is overwritten.
    done = pipeline.group.run("rejoin", "--node", LEADER, "--file", str(file))
    assert done.returncode == 3, done.stderr
    assert "--discard-tail" in done.stderr
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    changed = {line["key"]["id"]: line for line in lines if line["table"] == "public.item"}
    assert changed["7"]["event"]["after"]["v"] == "only there"
    assert changed["7"]["leader_row"]["v"] == "changed"
    assert changed["1001"]["leader_row"]["v"] == "new leader"
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.glob("tail*")] == [file.name]
    assert rows_of(old, "SELECT * FROM item ORDER BY id") == before

    # When the operator says so, then it follows, and holds what the leader holds.
    again = tmp_path / "again.jsonl"
    report = json.loads(pipeline.run("rejoin", "--node", LEADER, "--discard-tail", "--file", str(again), "--json"))
    assert report["tail_transactions"] == len(ONLY_THERE)
    assert len(again.read_text().splitlines()) == len(lines)
    pipeline.start_apply(LEADER)
    run_sql(pipeline.nodes[FOLLOWER], "INSERT INTO item VALUES (2000, 'afterwards', NULL)")
    in_epoch(pipeline, 2, FOLLOWER)
    pipeline.assert_all_equal(FOLLOWER)
    assert rows_of(old, "SELECT slot_name FROM pg_replication_slots") == []
    assert "nothing to do" in pipeline.run("rejoin", "--node", LEADER)


@pytest.mark.long
@pytest.mark.newest_first
def test_without_a_tail_it_just_follows(pipelines: Pipelines, server: PostgresServer, postgres_version: int):
    pipeline = failed_over(pipelines, server, postgres_version)
    report = json.loads(pipeline.run("rejoin", "--node", LEADER, "--json"))
    assert (report["tail_transactions"], report["file"], report["rows_taken_over"]) == (0, None, 0)
    pipeline.start_apply(LEADER)
    in_epoch(pipeline, 2, FOLLOWER)
    pipeline.assert_all_equal(FOLLOWER)


def test_it_is_closed_for_writes_by_whoever_reads_the_log_beside_it(pipelines: Pipelines, server: PostgresServer):
    # Given an old leader that is back and does not know that it leads no more.
    pipeline = failed_over(pipelines, server, 18)
    run_sql(pipeline.nodes[LEADER], "INSERT INTO item VALUES (5000, 'still open', NULL)")

    # When its applier runs, then soon nobody can write there, and its capture says what to do.
    pipeline.start_apply(LEADER)

    def closed() -> bool:
        try:
            run_sql(pipeline.nodes[LEADER], "UPDATE item SET v = 'late' WHERE id = 5000")
        except psycopg.errors.ReadOnlySqlTransaction:
            return True
        return False

    assert wait_for(closed, seconds=30), pipeline.group.tail_of_logs()
    done = pipeline.group.run("capture", "--node", LEADER)
    assert done.returncode == 4
    assert f"run cdc rejoin --node {LEADER}" in done.stderr.splitlines()[-1]

    # And what it took is saved when it rejoins; its applier goes on from there by itself.
    pipeline.run("rejoin", "--node", LEADER, "--discard-tail", "--file", str(pipeline.group.config.parent / "tail"))
    in_epoch(pipeline, 2, FOLLOWER)
    pipeline.assert_all_equal(FOLLOWER)


@pytest.mark.long
def test_without_its_slot_it_must_be_bootstrapped(pipelines: Pipelines, server: PostgresServer):
    pipeline = failed_over(pipelines, server, 18, *ONLY_THERE)
    run_sql(pipeline.nodes[LEADER], f"SELECT pg_drop_replication_slot('{pipeline.group.slot}')")
    done = pipeline.group.run("rejoin", "--node", LEADER, "--discard-tail")
    assert done.returncode == 4
    assert "bootstrap" in done.stderr
    assert rows_of(pipeline.nodes[LEADER], "SELECT v FROM item WHERE id = 1001") == [("only there",)]
