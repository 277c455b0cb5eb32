"""Does what the schedule says: each step in a thread of its own, begun at its time, undone at its end."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import psycopg

from cdc.local import LocalServerError
from tests.soak.findings import Findings
from tests.soak.schedule import DAEMONS, FOLLOWERS, Round, Step
from tests.soak.stage import Stage
from tests.soak.watch import FollowerWatch
from tests.soak.workloads import add_column, add_column_here, giant
from tests.support.pipeline import LEADER
from tests.support.proxy import CUT, HALF_OPEN, PASS, Link

RECOVERY_SECONDS = 300.0
"""Longer than this is a violation, whatever the machine does beside."""
_STEP_SECONDS = 600.0
_RETRY_SECONDS = 300.0
_LINKS = {
    "cut": CUT,
    "half-open": HALF_OPEN,
    "latency": Link(latency_seconds=0.2),
    "reset": Link(reset_chance=0.02),
}
_FOLLOWER_DDL = ("SET default_transaction_read_only = off", "SET session_replication_role = replica")


class Nemesis:
    """`stop` cuts every wait short; what was done is undone all the same."""

    def __init__(
        self,
        stage: Stage,
        watches: dict[str, FollowerWatch],
        findings: Findings,
        stop: threading.Event,
        say: Callable[[str], None],
    ) -> None:
        self.active: set[str] = set()
        self._stage = stage
        self._watches = watches
        self._findings = findings
        self._stop = stop
        self._say = say
        self._columns = 0
        self._locks: dict[str, threading.Lock] = {}
        self._random = random.Random(0)

    def round(self, one: Round, label: str) -> None:
        """All of its steps. Returns when everything is healed."""
        began = time.monotonic()
        threads = []
        for step in one.steps:
            if self._stop.wait(max(0.0, began + step.at - time.monotonic())):
                break
            thread = threading.Thread(target=self._run, args=(step, label), name=str(step), daemon=True)
            thread.start()
            threads.append(thread)
            if not one.overlapping:
                thread.join(_STEP_SECONDS)
                if step.fault != "giant" and not self._stop.is_set():
                    self._time_recovery(step)
        self._stop.wait(max(0.0, began + one.seconds - time.monotonic()))
        for thread in threads:
            thread.join(_STEP_SECONDS)
            if thread.is_alive():
                raise RuntimeError(f"the step '{thread.name}' does not end")

    def _run(self, step: Step, label: str) -> None:
        place = f"link {step.target}" if step.fault == "link" else step.target
        with self._locks.setdefault(place, threading.Lock()):
            self._say(f"{label}: {step}")
            self.active.add(str(step))
            try:
                if self._act(step):
                    self._findings.count(self._findings.faults, f"{step.fault} {step.how}".strip())
                else:
                    self._findings.count(self._findings.skipped, step.fault)
            except Exception as error:
                self._findings.violation(f"'{step}' cannot be done or undone: {type(error).__name__}: {error}")
            finally:
                self.active.discard(str(step))

    def _act(self, step: Step) -> bool:
        """False when this machine cannot do it."""
        stage, target = self._stage, step.target
        match step.fault:
            case "kill":
                stage.kill(target)
                self._stop.wait(step.seconds)
                stage.start(target)
            case "pause":
                stage.pause(target)
                self._stop.wait(step.seconds)
                stage.resume(target)
            case "restart":
                self._restart(step)
            case "disconnect":
                self._retry(lambda: self._disconnect(target))
            case "link":
                stage.links[target].set(_LINKS[step.how])
                self._stop.wait(step.seconds)
                stage.links[target].set(PASS)
            case "full disk":
                return self._fill_disk(step)
            case "lock":
                self._retry(lambda: self._lock(step))
            case "column":
                self._add_column(step)
            case "giant":
                self._retry(lambda: giant(stage.dsn(LEADER), int(step.how), self._random))
            case _:
                raise ValueError(f"unknown fault {step.fault}")
        return True

    def _restart(self, step: Step) -> None:
        code = self._stage.stop(step.target, step.how)
        if code == -signal.SIGTERM and self._stage.has_just_started(step.target):
            code = 0  # Python itself was still starting
        if step.target in DAEMONS and code != 0:
            told = f"ended with {code}" if code is not None else "did not end in 15 s"
            self._findings.violation(f"{step.target} {told} on SIGTERM")
        self._stop.wait(step.seconds)
        self._stage.start(step.target)

    def _disconnect(self, node: str) -> None:
        with psycopg.connect(self._stage.dsn(node), autocommit=True, connect_timeout=5) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'cdc%'"
            )

    def _fill_disk(self, step: Step) -> bool:
        disk = self._stage.disks.get(step.target)
        if disk is None:
            return False
        disk.fill()
        self._stop.wait(step.seconds)
        disk.free()
        # Whether it lived through that is the server's business.
        self._stage.ensure(step.target)
        return True

    def _lock(self, step: Step) -> None:
        with psycopg.connect(self._stage.dsn(step.target), connect_timeout=5) as connection:
            connection.execute("SET TRANSACTION READ WRITE")
            connection.execute("LOCK TABLE ledger, counter IN SHARE MODE")
            self._stop.wait(step.seconds)

    def _add_column(self, step: Step) -> None:
        self._columns += 1
        column = f"extra_{self._columns}"
        with_rows = step.how == "with rows"
        self._retry(lambda: add_column(self._stage.dsn(LEADER), step.target, column, with_rows))
        self._stop.wait(step.seconds)
        for name in FOLLOWERS:
            self._retry(partial(add_column_here, self._stage.dsn(name), _FOLLOWER_DDL, step.target, column))

    def _retry(self, act: Callable[[], Any]) -> None:
        """The server that it needs may be down by another step."""
        deadline = time.monotonic() + _RETRY_SECONDS
        while True:
            try:
                act()
                return
            except (psycopg.OperationalError, LocalServerError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.3)

    # recovery

    def _time_recovery(self, step: Step) -> None:
        seconds = self.recover()
        if seconds is not None:
            kind = f"{step.fault} {step.how}".strip()
            self._findings.recovered(f"{kind} {step.target}" if step.fault != "column" else kind, seconds)

    def recover(self) -> float | None:
        """Wait until every follower shows what is committed now; the seconds that it took. None: stopped."""
        began = time.monotonic()
        marks: list[int] = []
        self._retry(lambda: marks.append(self._stage.mark()))
        while behind := [watch.name for watch in self._watches.values() if watch.position < marks[0]]:
            seconds = time.monotonic() - began
            if seconds > RECOVERY_SECONDS:
                self._findings.violation(f"{', '.join(behind)} did not catch up within {RECOVERY_SECONDS:.0f} s")
                return None
            if self._stop.wait(0.1) or self._findings.wrong.is_set():
                return None
        return time.monotonic() - began
