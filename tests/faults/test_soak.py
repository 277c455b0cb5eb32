"""The random nemesis, for a minute: what `ops/soak` does for an hour."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import psutil
import psycopg
import pytest

from cdc.local.processes import wait_for

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(400)]


def soak(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Started; its own folder is where it makes temporary files."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.soak.run", "--json", str(folder / "report.json"), *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.long
def test_a_minute_of_random_faults_shows_no_state_that_the_leader_did_not_have(tmp_path: Path):
    running = soak(tmp_path, "--minutes", "1", "--seed", "11")
    told, _ = running.communicate(timeout=390)

    assert running.returncode == 0, told
    report = json.loads((tmp_path / "report.json").read_bytes())
    assert report["passed"]
    assert sum(report["faults"].values()) + sum(report["skipped"].values()) >= 5
    assert report["transactions"] > 100
    assert report["rests"] == 2
    assert min(report["snapshots"].values()) > 20
    assert report["slot_checks"] > 10


@pytest.mark.long
def test_a_row_that_differs_ends_a_soak_with_its_seed_and_moment_and_the_logs(tmp_path: Path):
    seed = os.getpid()
    folder = Path(tempfile.gettempdir())
    running = soak(tmp_path, "--minutes", "5", "--seed", str(seed))
    try:
        assert wait_for(lambda: follower_of(folder, seed) is not None, seconds=120), "it does not start"
        with psycopg.connect(
            follower_of(folder, seed) or "", options="-c session_replication_role=replica"
        ) as connection:
            connection.execute("SET TRANSACTION READ WRITE")
            connection.execute("UPDATE account SET balance = balance + 1 WHERE id = 1")
        told, _ = running.communicate(timeout=200)

        assert running.returncode == 1, told
        violations = json.loads((tmp_path / "report.json").read_bytes())["violations"]
        assert "the accounts hold 40001" in violations[0]["what"]
        assert re.search(rf"seed {seed}: .*VIOLATION at [0-9.]+ s \([0-9:]+Z\): eu-west at", told, re.DOTALL), told
        (kept,) = folder.glob(f"cdc-soak-{seed}-*")
        assert {"schedule.json", "kafka.log", "us-east.log"} <= {file.name for file in kept.iterdir()}
        assert list(kept.rglob("apply-eu-west.log"))
    finally:
        running.kill()
        for kept in folder.glob(f"cdc-soak-{seed}-*"):
            shutil.rmtree(kept)


def follower_of(folder: Path, seed: int) -> str | None:
    """Where the follower eu-west is, once it holds rows and its applier runs."""
    logs = list(folder.glob(f"cdc-soak-{seed}-*/apply-kafka/apply-eu-west.log"))
    if not logs or "applying" not in logs[0].read_text():
        return None
    nodes = tomllib.loads(logs[0].with_name("cdc.toml").read_text())["nodes"]
    return str(nodes["eu-west"]["dsn"])


@pytest.mark.long
def test_an_interrupt_ends_a_soak_and_everything_that_it_started(tmp_path: Path):
    running = soak(tmp_path, "--minutes", "5", "--seed", "12")
    family = psutil.Process(running.pid)
    assert wait_for(lambda: len(family.children(recursive=True)) > 10, seconds=90), "it does not start"
    children = family.children(recursive=True)

    running.send_signal(signal.SIGINT)
    told, _ = running.communicate(timeout=120)

    assert running.returncode == 130, told
    assert not [child for child in children if child.is_running()]
