"""`cdc demo` as people run it: a process, from a folder that knows nothing of the project."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from confluent_kafka.admin import AdminClient

from cdc.local import KafkaServer
from cdc.local.processes import wait_for
from cdc.local.shared_memory import attached_by
from tests.support.shared_memory import posix_files

REPOSITORY = Path(__file__).resolve().parents[2]
FOLLOWERS = ("eu-west", "ap-south")

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

StartDemo = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where the demo keeps its servers; pytest's own folders are closed to the user that these run as."""
    with tempfile.TemporaryDirectory(prefix="cdc-test-", ignore_cleanup_errors=True) as name:
        path = Path(name).resolve()
        path.chmod(0o1777)
        yield path


@pytest.fixture
def demo(folder: Path) -> Iterator[StartDemo]:
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        environment = {
            **os.environ,
            "TMPDIR": str(folder),
            "PYTHONPATH": str(REPOSITORY),
            # What a machine may have set for its own group must not lead the demo there.
            "CDC_KAFKA__BOOTSTRAP_SERVERS": "nowhere:1",
            "CDC_CONFIG": "/nowhere/cdc.toml",
            "PGSSLMODE": "verify-full",
            "PGOPTIONS": "-c default_transaction_read_only=on",
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "cdc", "demo", *arguments], cwd="/", env=environment, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def until(lines: Any, text: str) -> str:
    """Read on to the line that holds `text`, and return it."""
    seen = []
    for line in lines:
        seen.append(line)
        if text in line:
            return str(line)
    pytest.fail(f"the demo ended without saying {text!r}:\n{''.join(seen)}")


def processes_in(folder: Path) -> list[str]:
    """What runs with files in `folder`: servers by where they run, daemons by their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            named = [process.cwd(), *process.cmdline(), *process.environ().values()]
        except psutil.Error:
            continue
        if process.pid != os.getpid() and any(str(folder) in text for text in named):
            found.append(f"{process.pid} {' '.join(process.cmdline())[:200]}")
    return found


def test_demo_survives_its_kills_and_followers_end_equal(demo: StartDemo, folder: Path):
    process = demo("--seconds", "8", "--json")

    out, err = process.communicate(timeout=240)

    assert process.returncode == 0, err
    report = json.loads(out)
    assert (report["passed"], report["equal"], report["bank_total_differed"]) == (True, True, False)
    assert report["kafka_durable"], report["kafka"]
    assert report["transactions"] > 8 * 100
    assert report["rows"] == sum(table["rows"] for table in report["tables"].values()) > 20_000
    assert set(report["followers"]) == set(FOLLOWERS)
    for follower in report["followers"].values():
        assert follower["differing_tables"] == []
        assert follower["refuses_writes"]
        assert follower["lag_zero_at_end"]
        assert follower["snapshots"] > 10
        assert not follower["torn_snapshots"]
        assert not follower["ledger_had_holes"]
        assert 0 < follower["lag_ms"]["p50"] <= follower["lag_ms"]["p99"] <= follower["lag_ms"]["max"]
        assert follower["undisturbed_lag_ms"]["transactions"] < follower["lag_ms"]["transactions"]
    assert [kill["daemon"] for kill in report["kills"]] == ["capture", "apply ap-south"]
    assert all(kill["recovery_seconds"] > 0 for kill in report["kills"])
    assert set(report["daemon_exit_codes"].values()) == {0}
    assert "found Apache Kafka" in err
    assert processes_in(folder) == []
    assert list(folder.iterdir()) == []


@pytest.mark.long
def test_failover_loses_nothing_that_it_does_not_name(demo: StartDemo, folder: Path, kafka: KafkaServer):
    process = demo("--seconds", "5", "--failover", "--json", "--kafka", kafka.bootstrap_servers)

    out, err = process.communicate(timeout=500)

    assert process.returncode == 0, err
    report = json.loads(out)
    failover = report["failover"]
    assert (failover["old_leader"], failover["new_leader"], failover["equal"]) == ("us-east", "eu-west", True)
    assert 0 < failover["promote_to_first_write_seconds"] < failover["write_outage_seconds"]
    assert failover["lost_not_exported"] == 0
    assert failover["acknowledged_lost"] <= failover["tail_exported"]
    assert (failover["promotion"]["mode"], failover["promotion"]["epoch"]) == ("emergency", 2)
    followers = report["followers"]
    assert {name for name, follower in followers.items() if follower["leads_now"]} == {"eu-west"}
    for name in ("us-east", "ap-south"):
        assert followers[name]["equal"]
        assert followers[name]["refuses_writes"]
        assert followers[name]["lag_zero_at_end"]
    for follower in followers.values():
        assert follower["snapshots"] > 0
        assert [
            wrong for wrong in ("bank_total_differed", "torn_snapshots", "ledger_had_holes") if follower[wrong]
        ] == []
    assert "begin: promotion" in err
    assert "us-east follows eu-west and has caught up" in err
    assert set(report["daemon_exit_codes"]) == {"capture", "apply us-east", "apply eu-west", "apply ap-south"}
    assert set(report["daemon_exit_codes"].values()) == {0}
    assert processes_in(folder) == []
    assert list(folder.iterdir()) == []


def test_given_kafka_that_does_not_answer_is_told_in_one_line(demo: StartDemo, folder: Path):
    process = demo("--kafka", "127.0.0.1:1")

    out, err = process.communicate(timeout=60)

    assert process.returncode == 3
    (line,) = err.splitlines()
    assert line.startswith("cdc: 127.0.0.1:1: Kafka does not answer")
    assert "started" not in out
    assert list(folder.iterdir()) == []


def test_ctrl_c_while_servers_start_leaves_nothing(demo: StartDemo, folder: Path):
    memory_before = posix_files()
    process = demo()
    until(process.stdout, "found ")

    process.send_signal(signal.SIGINT)

    assert process.wait(30) == 130
    assert processes_in(folder) == []
    assert list(folder.iterdir()) == []
    # Servers of other tests begin and end meanwhile, but memory that nobody uses is of none of them for long.
    made = posix_files() - memory_before
    assert wait_for(lambda: made & posix_files() <= attached_by(psutil.pids()).posix_files, seconds=10)


@pytest.mark.long
def test_ctrl_c_under_load_leaves_nothing(demo: StartDemo, folder: Path, kafka: KafkaServer):
    topics_before = topics(kafka)
    process = demo("--kafka", kafka.bootstrap_servers)
    until(process.stdout, "refuses writes")

    process.send_signal(signal.SIGINT)

    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "cdc: interrupted"
    assert processes_in(folder) == []
    assert list(folder.iterdir()) == []
    assert wait_for(lambda: topics(kafka) <= topics_before, seconds=10)


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
def test_nothing_outlives_a_killed_demo(demo: StartDemo, folder: Path):
    process = demo()
    until(process.stdout, "is live")
    running = "\n".join(processes_in(folder))
    assert "postgres" in running
    assert "java" in running
    assert "apply" in running

    process.kill()

    assert wait_for(lambda: not processes_in(folder), seconds=30), processes_in(folder)


@pytest.mark.long
def test_kept_group_goes_on_until_ctrl_c(demo: StartDemo, folder: Path, kafka: KafkaServer):
    process = demo("--seconds", "1", "--keep", "--kafka", kafka.bootstrap_servers)
    until(process.stdout, "PASSED")
    until(process.stdout, "left running")
    configuration = until(process.stdout, "configuration ").split()[1]

    lag = subprocess.run(
        [sys.executable, "-m", "cdc", "lag", "--json", "--config", configuration],
        cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert lag.returncode == 0, lag.stderr
    assert {hop["name"] for hop in json.loads(lag.stdout)["followers"]} == set(FOLLOWERS)

    process.send_signal(signal.SIGINT)

    assert process.wait(60) == 0
    assert processes_in(folder) == []
    assert list(folder.iterdir()) == []


def topics(kafka: KafkaServer) -> set[str]:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers, "log_level": 0})
    return {name for name in admin.list_topics(timeout=10).topics if name.startswith("demo-")}
