"""The main path against containers, where a container engine answers."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

from cdc.local.group import Group
from cdc.local.processes import wait_for


@pytest.fixture
def group(container_engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Group]:
    """Leader, follower and Kafka in containers of the public images."""
    # Its reaper is one more image to pull; the stack below stops what was started.
    monkeypatch.setenv("TESTCONTAINERS_RYUK_DISABLED", "true")
    from testcontainers.community.kafka import KafkaContainer
    from testcontainers.community.postgres import PostgresContainer

    with ExitStack() as stack:
        nodes = {}
        for name in ("us-east", "eu-west"):
            server = PostgresContainer("postgres:18", driver=None).with_command("postgres -c wal_level=logical")
            nodes[name] = stack.enter_context(server).get_connection_url()
        kafka = stack.enter_context(KafkaContainer("confluentinc/cp-kafka:7.6.0").with_kraft())
        yield stack.enter_context(Group(tmp_path, "shop", "us-east", nodes, kafka.get_bootstrap_server()))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_rows_reach_a_follower_through_servers_in_containers(group: Group):
    with psycopg.connect(group.nodes["us-east"], autocommit=True) as leader:
        leader.execute("CREATE TABLE t (id int PRIMARY KEY, note text)")
        leader.execute("INSERT INTO t SELECT i, 'before' FROM generate_series(1, 10) AS i")
        for command in (["init"], ["bootstrap", "--follower", "eu-west"]):
            done = group.run(*command)
            assert done.returncode == 0, done.stderr
        group.start("capture")
        group.start("apply", "eu-west")
        leader.execute("INSERT INTO t SELECT i, 'after' FROM generate_series(11, 500) AS i")
        leader.execute("UPDATE t SET note = 'changed' WHERE id % 2 = 0")
        leader.execute("DELETE FROM t WHERE id % 5 = 0")
        wanted = leader.execute("SELECT * FROM t ORDER BY id").fetchall()
    with psycopg.connect(group.nodes["eu-west"], autocommit=True) as follower:
        arrived = wait_for(lambda: follower.execute("SELECT * FROM t ORDER BY id").fetchall() == wanted, seconds=60)
    assert arrived, group.tail_of_logs()
