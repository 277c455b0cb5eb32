"""Daemons under systemd: what they tell it, with a socket of the test in its place, and what its units say."""

from __future__ import annotations

import configparser
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdc.cli.systemd import told_to_systemd
from cdc.errors import CdcError, ConfigError, FencedError
from cdc.local.processes import end_child, wait_for
from cdc.services.health import SILENT_SECONDS, Health
from tests.fixtures.pipeline import Pipelines
from tests.support.pipeline import FOLLOWER, run_sql
from tests.support.watched import APPLY

UNITS = sorted((Path(__file__).parents[2] / "ops/systemd").glob("*.service"))
WRITABLE = "SET default_transaction_read_only = off; SET session_replication_role = replica"


class Supervisor:
    """Receives what systemd would."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)

    def told(self, line: str) -> bool:
        while True:
            try:
                self.lines += self._socket.recv(4096).decode().splitlines()
            except BlockingIOError:
                return any(each.startswith(line) for each in self.lines)

    def forget(self) -> None:
        self.told("")
        self.lines.clear()

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    supervisor = Supervisor(tmp_path / "notify")
    yield supervisor
    supervisor.close()


def test_ready_is_told_when_it_works_and_not_when_it_starts(pipelines: Pipelines, supervisor: Supervisor):
    # Given an applier that has no place for a row.
    pipeline = pipelines.new("CREATE TABLE t (id int PRIMARY KEY)").init().bootstrap()
    pipeline.start_capture()
    pipeline.execute("ALTER TABLE t ADD COLUMN x int", "INSERT INTO t VALUES (1, 2)")
    pipeline.group.environment[APPLY] = {"NOTIFY_SOCKET": str(supervisor.path)}
    pipeline.start_apply()
    # Then systemd is told what is wrong, and that the loop is alive.
    assert wait_for(lambda: supervisor.told("STATUS=blocked: "), seconds=30), supervisor.lines
    assert supervisor.told("WATCHDOG=1")
    # When a place for it is made, then it is ready; at its end that it stops.
    pipeline.group.environment.clear()
    process = pipeline.group.daemon(APPLY)
    lines = len(supervisor.lines)
    run_sql(pipeline.followers[FOLLOWER], WRITABLE, "ALTER TABLE t ADD COLUMN x int")
    pipeline.catch_up()
    assert wait_for(lambda: supervisor.told("STATUS=applying"), seconds=30), supervisor.lines[lines:]
    assert supervisor.told("READY=1")
    assert end_child(process, signal.SIGTERM, seconds=15)
    assert process.returncode == 0
    assert supervisor.told("STOPPING=1")


def test_the_watchdog_is_fed_while_a_statement_is_waited_for_and_not_while_the_loop_hangs(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
):
    now = [0.0]
    health = Health(lambda: now[0])
    health.works("applying")
    monkeypatch.setenv("NOTIFY_SOCKET", str(supervisor.path))
    with told_to_systemd(health):
        now[0] = 3600.0
        health.alive()
        assert wait_for(lambda: supervisor.told("STATUS=busy"), seconds=10)
        supervisor.forget()
        assert wait_for(lambda: supervisor.told("WATCHDOG=1"), seconds=10)
        now[0] += SILENT_SECONDS + 1
        supervisor.forget()  # what may have been on its way
        assert wait_for(lambda: supervisor.told("STATUS=busy"), seconds=10)
        supervisor.forget()
        assert wait_for(lambda: supervisor.told("STATUS=busy"), seconds=10)
        assert not supervisor.told("WATCHDOG=1")


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_units_wait_for_readiness_and_do_not_start_again_what_an_operator_must_decide(unit: Path):
    parsed = configparser.ConfigParser(strict=False, interpolation=None)
    parsed.optionxform = str  # type: ignore[assignment,method-assign]
    parsed.read_string(unit.read_text())
    service = parsed["Service"]
    assert service["Type"] == "notify"
    kept_down = {int(code) for code in service["RestartPreventExitStatus"].split()}
    assert kept_down == {ConfigError.exit_code, FencedError.exit_code}
    assert CdcError.exit_code not in kept_down
    analyze = shutil.which("systemd-analyze")
    if analyze:
        done = subprocess.run([analyze, "verify", unit], capture_output=True, text=True, check=False)
        unknown = [line for line in done.stderr.splitlines() if unit.name in line and "is not executable" not in line]
        assert not unknown
