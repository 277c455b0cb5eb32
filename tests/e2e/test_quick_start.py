"""The README's way to a group of one's own is taken as it is written, but for the addresses of the servers."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from cdc.local import KafkaServer
from cdc.local.processes import tail_of, wait_for
from tests.support.pipeline import rows_of, run_sql

ROOT = Path(__file__).parents[2]
ENDED = "the quick start has ended"
SECONDS = 60.0


def fenced(language: str) -> str:
    """The first block of a language in the README's section."""
    section = (ROOT / "README.md").read_text().partition("\n## A group of your own\n")[2].partition("\n## ")[0]
    found = re.search(rf"^```{language}\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    assert found, f"the section has no block of {language}"
    return found[1]


@contextmanager
def shell(script: str, folder: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Runs it, and what it leaves in the background until the end of the `with`."""
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            ["/bin/bash", "-c", f"set -e\n{script}\necho {ENDED}\nwait"], cwd=folder, env=environment,
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        daemons = psutil.Process(process.pid).children() if process.poll() is None else []
        for daemon in daemons:
            daemon.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        finally:
            for daemon in daemons:
                if daemon.is_running():
                    daemon.kill()
            process.kill()


def installed(folder: Path) -> str:
    """A PATH on which `cdc` is this project's."""
    command = folder / "bin" / "cdc"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m cdc "$@"\n')
    command.chmod(0o755)
    return f"{command.parent}:{os.environ['PATH']}"


def test_the_quick_start_ends_with_a_follower_that_shows_what_is_written(
    leader_db: str, follower_db: str, kafka: KafkaServer, tmp_path: Path
):
    run_sql(leader_db, "CREATE TABLE item (id int PRIMARY KEY, v text)", "INSERT INTO item VALUES (1, 'before')")
    (tmp_path / "cdc.toml").write_text(fenced("toml"))
    nodes = {"us-east": {"dsn": leader_db}, "eu-west": {"dsn": follower_db}}
    environment = {
        **os.environ,
        "PATH": installed(tmp_path),
        "PYTHONPATH": str(ROOT),
        "CDC_GROUP": f"g{uuid.uuid4().hex[:10]}",
        "CDC_NODES": json.dumps(nodes),
        "CDC_KAFKA__BOOTSTRAP_SERVERS": kafka.start().bootstrap_servers,
        # The tests' Kafka is one broker.
        "CDC_KAFKA__REPLICATION_FACTOR": "1",
        "CDC_KAFKA__MIN_INSYNC_REPLICAS": "1",
    }
    environment.pop("CDC_CONFIG", None)
    output = tmp_path / "output"

    with shell(fenced("sh"), tmp_path, environment) as process:

        def ended() -> bool:
            return process.poll() is not None or ENDED in output.read_text()

        began = time.monotonic()
        assert wait_for(ended, seconds=SECONDS), tail_of(output, 40)
        print(f"the quick start took {time.monotonic() - began:.1f} s")
        assert process.poll() is None, tail_of(output, 40)
        assert rows_of(follower_db, "SELECT v FROM item") == [("before",)]

        run_sql(leader_db, "INSERT INTO item VALUES (2, 'after')")
        shown = wait_for(lambda: rows_of(follower_db, "SELECT v FROM item WHERE id = 2") == [("after",)], seconds=20)
        assert shown, tail_of(output, 40)
    assert process.returncode == 0
