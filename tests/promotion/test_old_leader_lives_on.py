"""The old leader is cut off and lives on, with clients and a capture of its own: nobody shows what it takes then."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from cdc.local.apache_kafka import ApacheKafka
from cdc.local.group import Group
from cdc.local.processes import wait_for
from tests.fixtures.pipeline import Pipelines
from tests.fixtures.servers import OwnPostgres, durable_kafka
from tests.support.log import read_log
from tests.support.pipeline import FOLLOWER, LEADER, OTHER_FOLLOWER, QUICK_HEARTBEAT, Pipeline, rows_of, run_sql
from tests.support.promotion import (
    LOADED,
    Clients,
    assert_one_leader,
    in_epoch,
    receipts_in,
    watched,
)
from tests.support.proxy import CUT, HALF_OPEN, PASS, Proxy, before_kafka

pytestmark = pytest.mark.faults

ONLY_THERE = "CREATE TABLE only_there (id int PRIMARY KEY)"
BURST = 3000


def lsn(dsn: str, what: str) -> int:
    rows = rows_of(dsn, f"SELECT ({what}) - '0/0'::pg_lsn")
    return int(rows[0][0] or 0)


def another_view(pipeline: Pipeline, folder: Path, leader: str, kafka: str) -> Group:
    """The same group as somebody elsewhere is configured for it."""
    folder.mkdir()
    nodes = {**pipeline.nodes, LEADER: leader}
    return Group(folder, pipeline.name, LEADER, nodes, kafka, extra=QUICK_HEARTBEAT)


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "bound", [pytest.param(True, id="bound"), pytest.param(False, id="unbound", marks=pytest.mark.long)]
)
@pytest.mark.long
def test_what_it_takes_behind_a_cut_is_shown_by_nobody(
    pipelines: Pipelines, own_postgres: OwnPostgres, tmp_path: Path, bound: bool
):
    # Given a leader that is reached from elsewhere by a link, and its capture, which reaches Kafka by another one.
    kafka, server = durable_kafka(), own_postgres()
    assert isinstance(kafka, ApacheKafka)
    with before_kafka(kafka) as kafka_link, kafka, Proxy(f"127.0.0.1:{server.port}") as leader_link:
        pipeline = pipelines.new(
            *LOADED, ONLY_THERE, leader=server, followers=(FOLLOWER, OTHER_FOLLOWER), kafka_server=kafka
        )
        there = pipeline.leader
        by_link = urlsplit(there)
        by_link = by_link._replace(netloc=by_link.netloc.replace(str(by_link.port), str(leader_link.port)))
        inside = another_view(pipeline, tmp_path / "inside", there, kafka_link.address)
        outside = another_view(pipeline, tmp_path / "outside", by_link.geturl(), kafka.bootstrap_servers)
        pipeline.init().bootstrap()
        for name in pipeline.followers:
            pipeline.start_apply(name)
        with inside, outside:
            inside.start_command("capture", "capture", *(["--node", LEADER] if bound else []))
            with Clients({LEADER: there}) as clients, watched(pipeline, pipeline.followers):
                clients.transact(20)
                pipeline.wait_applied(pipeline.mark(), all_running=False, seconds=60)

                # When it is cut off, with a burst of writes that its capture has read and Kafka has not taken,
                kafka_link.set(HALF_OPEN)
                leader_link.set(CUT)
                before = lsn(there, "pg_current_wal_lsn()")
                run_sql(there, f"INSERT INTO only_there SELECT generate_series(1, {BURST})")
                after = lsn(there, "pg_current_wal_lsn()")
                sent = "SELECT min(sent_lsn) FROM pg_stat_replication WHERE application_name = 'cdc capture'"
                assert wait_for(lambda: lsn(there, sent) >= after, seconds=60), "its capture does not read"
                # and another node is promoted and takes writes, and then the links are whole again,
                done = outside.run(
                    "promote", "--follower", FOLLOWER, "--leader-is-dead", "cut off", "--json", seconds=120
                )
                assert done.returncode == 0, done.stderr
                run_sql(pipeline.nodes[FOLLOWER], "INSERT INTO receipt VALUES (-1)")
                kafka_link.set(PASS)
                leader_link.set(PASS)

                # Then its capture ends, or goes on with the new leader; and what it still wrote is void.
                if bound:
                    zombie = inside.daemon("capture")
                    assert wait_for(lambda: zombie.poll() is not None, seconds=60), inside.tail_of_logs()
                    assert zombie.returncode == 4
                    line = inside.log_of("capture").read_text().splitlines()[-1]
                    assert line.startswith("cdc: ")
                    assert f"run cdc rejoin --node {LEADER}" in line
                    outside.start("capture")
                in_epoch(pipeline, 2, FOLLOWER, without=(LEADER,))
        report = json.loads(done.stdout)
        assert (report["mode"], report["epoch"]) == ("emergency", 2)
        void = [
            event
            for event in read_log(kafka.bootstrap_servers, pipeline.group.topic)[report["log_offset"] :]
            if event["cdc"]["epoch"] == 1
        ]
        assert len(void) > 500, "the test has not met what it is for"
        assert [rows_of(dsn, "SELECT count(*) FROM only_there") for dsn in pipeline.followers.values()] == [[(0,)]] * 2
        assert lsn(there, "SELECT confirmed_flush_lsn FROM pg_replication_slots") <= before

        # Then it rejoins; what only it has is saved and counted, and capture finds the leader behind all that is void.
        file = tmp_path / "tail.jsonl"
        pipeline.start_capture()
        pipeline.start_apply(LEADER)
        joined = json.loads(
            pipeline.run("rejoin", "--node", LEADER, "--discard-tail", "--file", str(file), "--json", seconds=120)
        )
        assert joined["tail_changes"] >= BURST
        assert set(clients.missing_on(pipeline.nodes[FOLLOWER])) <= receipts_in(file)
        in_epoch(pipeline, 2, FOLLOWER)
        pipeline.assert_all_equal(FOLLOWER)
        assert_one_leader(pipeline, FOLLOWER)
        pipeline.group.close()  # while Kafka is there: its daemons need not wait for it
