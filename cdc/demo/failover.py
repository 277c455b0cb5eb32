"""The second act: the leader's region goes dark under load, another one takes over, and the old leader comes back.

Capture runs beside the leader, so it dies with it: what was committed in the last moment is in no log. Asynchronous
replication loses that; the load knows what was acknowledged to it, so the loss is counted, and held against the export.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import psycopg

from cdc.demo.daemons import CAPTURE
from cdc.demo.errors import DemoError, asking
from cdc.demo.faults import Disturbance, wait_for_number, when_seen
from cdc.demo.load import Takeover
from cdc.demo.refusal import refuses
from cdc.demo.report import FailoverReport
from cdc.demo.scene import Scene
from cdc.demo.screen import Mood
from cdc.demo.servers import FOLLOWERS, Servers
from cdc.demo.verdict import Findings
from cdc.errors import CheckError
from cdc.local.group import Group

REASON = "the demo killed its server"

_COMMAND_SECONDS = 120.0
_START_SECONDS = 60.0
_FIRST_WRITE_SECONDS = 60.0
_UNNOTICED_SECONDS = 1.0
# Shares of the time under load.
_NEW_REGION_SHARE = 0.2
_TOGETHER_SHARE = 0.1

_RECEIPTS = "SELECT receipt FROM ledger"


def fail_over(scene: Scene, servers: Servers, group: Group, findings: Findings, seconds: float) -> None:
    """Raises DemoError when a part of it does not work; `seconds` is how long the first act was under load."""
    act = _SecondAct(scene, servers, group, findings)
    died_at = act.kill_leader()
    takeover = act.promote()
    act.go_on(died_at, seconds * _NEW_REGION_SHARE)
    act.bring_back()
    act.rejoin(takeover, seconds * _TOGETHER_SHARE)


def settle(scene: Scene, servers: Servers, findings: Findings) -> None:
    """Once nobody writes: what was acknowledged to a client and is not there."""
    if findings.failover is None:
        return
    with asking(scene.leader), psycopg.connect(servers.dsn(scene.leader)) as connection:
        there = {receipt for (receipt,) in connection.execute(_RECEIPTS)}
    lost = scene.journal.receipts() - there
    findings.failover = replace(
        findings.failover, acknowledged_lost=len(lost), lost_not_exported=len(lost - findings.exported)
    )
    if not lost:
        scene.say("every transaction that was acknowledged to a client is there", Mood.GOOD)
    else:
        named = len(lost & findings.exported)
        scene.say(
            f"{len(lost)} acknowledged transactions were lost with the old leader; {named} of them are in the export",
            Mood.PLAIN if named == len(lost) else Mood.BAD,
        )


class _SecondAct:
    def __init__(self, scene: Scene, servers: Servers, group: Group, findings: Findings) -> None:
        self._scene = scene
        self._servers = servers
        self._group = group
        self._findings = findings
        self._old, self._new = scene.leader, FOLLOWERS[0]

    def kill_leader(self) -> float:
        """When it died."""
        self._scene.begin(f"{self._old} goes dark")
        died_at = time.monotonic()
        self._scene.daemons.kill(CAPTURE)
        self._servers.postgres[self._old].kill()
        self._scene.leader_is_gone()
        self._scene.say(
            f"{self._old} goes dark: kill -9 of capture and of the leader's PostgreSQL at transaction "
            f"{self._scene.journal.newest}",
            Mood.BAD,
        )
        self._scene.wait(_UNNOTICED_SECONDS)
        self._scene.daemons.start(CAPTURE)
        self._scene.say("capture started again in another region; it follows whoever leads")
        return died_at

    def promote(self) -> Takeover:
        """Returns when the load has found the new leader."""
        self._scene.begin(f"cdc promote --follower {self._new} --leader-is-dead ...")
        self._scene.say(f'cdc promote --follower {self._new} --leader-is-dead "{REASON}"')
        began = time.monotonic()
        code, promotion = self._run("promote", "--follower", self._new, "--leader-is-dead", REASON, "--json")
        ended = time.monotonic()
        if code != 0:
            raise self._scene.daemons.failure("promote", code)
        if not self._scene.wait_until(self._new_leader_writes, _FIRST_WRITE_SECONDS):
            raise DemoError(f"no client finds the new leader within {_FIRST_WRITE_SECONDS:g} s", where=self._new)
        takeover = self._takeover()
        self._findings.failover = FailoverReport(
            old_leader=self._old,
            new_leader=self._new,
            promote_to_first_write_seconds=round(takeover.first_after - began, 2),
            write_outage_seconds=round(takeover.outage_seconds, 2),
            promote_seconds=round(ended - began, 2),
            promotion=promotion,
        )
        self._tell_promotion(self._findings.failover)
        return takeover

    def _tell_promotion(self, failover: FailoverReport) -> None:
        self._scene.say(
            f"{self._new} takes the writes: the first one {failover.promote_to_first_write_seconds:.1f} s after cdc "
            f"promote was started; clients were without a leader for {failover.write_outage_seconds:.1f} s",
            Mood.GOOD,
        )
        self._scene.say(f"  lost: {failover.promotion['loss']}")
        for todo in failover.promotion["remaining"]:
            self._scene.say(f"  to do: {todo}")

    def go_on(self, died_at: float, seconds: float) -> None:
        """The other followers go on from the same log."""
        self._scene.begin(f"{self._new} leads, writes go on there")
        for name in FOLLOWERS:
            self._findings.disturbances.append(Disturbance(name, died_at, self._caught_up_at(name)))
        for name in FOLLOWERS[1:]:
            self._scene.say(f"{name} follows {self._new}, without a bootstrap", Mood.GOOD)
        self._scene.wait(seconds)

    def _caught_up_at(self, name: str) -> float:
        sight, newest = self._scene.sights[name], self._scene.journal.newest
        if name == self._scene.leader:
            return self._takeover().first_after
        wait_for_number(self._scene, sight, newest, f"{name} does not follow {self._new}")
        return when_seen(sight, newest)

    def bring_back(self) -> None:
        self._scene.begin(f"{self._old}'s server comes back")
        with ThreadPoolExecutor(1) as pool:
            start = pool.submit(self._servers.postgres[self._old].start)
            self._scene.wait_until(start.done, _START_SECONDS)
            start.result()
        self._scene.is_back(self._old)
        self._scene.say(f"{self._old}: PostgreSQL is up again, and still takes itself for the leader")

    def rejoin(self, takeover: Takeover, seconds: float) -> None:
        """Until the old leader has all that the new one wrote meanwhile."""
        self._scene.begin(f"cdc rejoin --node {self._old}")
        began = time.monotonic()
        joined = self._join()
        self._scene.start_watching(self._old)
        sight, newest = self._scene.sights[self._old], self._scene.journal.newest
        wait_for_number(self._scene, sight, newest, f"{self._old} does not follow {self._new}")
        caught_up_at = time.monotonic()
        self._findings.disturbances.append(Disturbance(self._old, takeover.last_before, caught_up_at))
        self._scene.say(f"{self._old} follows {self._new} and has caught up", Mood.GOOD)
        self._findings.refuses_writes[self._old] = refuses(self._scene, self._servers, self._old)
        assert self._findings.failover is not None
        self._findings.failover = replace(
            self._findings.failover,
            rejoin_seconds=round(caught_up_at - began, 2),
            tail_exported=joined["tail_transactions"],
            tail_changes=joined["tail_changes"],
        )
        self._scene.begin(f"{self._new} leads, {self._old} follows")
        self._scene.wait(seconds)

    def _join(self) -> dict[str, Any]:
        """What `cdc rejoin` reports. It stops when the old leader has what nobody else has; that is in a file then, and
        may go."""
        command = ("rejoin", "--node", self._old, "--json")
        looked, tail = (self._group.config.with_name(f"{name}.jsonl") for name in ("looked-at-tail", "tail"))
        self._scene.say(f"cdc rejoin --node {self._old}")
        code, joined = self._run(*command, "--file", str(looked))
        if code == CheckError.exit_code and looked.exists():
            self._scene.say(f"cdc rejoin --node {self._old} --discard-tail")
            code, joined = self._run(*command, "--discard-tail", "--file", str(tail))
            self._findings.exported = frozenset(_receipts_in(tail)) if tail.exists() else frozenset()
        if code != 0:
            raise self._scene.daemons.failure("rejoin", code)
        return joined

    def _run(self, name: str, *arguments: str) -> tuple[int, dict[str, Any]]:
        """A command with --json to its end: exit code and report. What it says is shown as it comes; meanwhile the load
        may find a new leader."""
        output = _Output(self._group.log_of(name))
        process = self._group.start_command(name, name, *arguments)

        def ended() -> bool:
            over = process.poll() is not None
            self._new_leader_writes()
            for line in output.new_lines():
                self._scene.say(f"  {line}")
            return over

        if not self._scene.wait_until(ended, _COMMAND_SECONDS):
            raise DemoError(f"cdc {name} does not end within {_COMMAND_SECONDS:g} s")
        return process.returncode, output.report()

    def _new_leader_writes(self) -> bool:
        if self._scene.journal.takeover is None:
            return False
        if self._scene.leader == self._old:
            self._scene.leads(self._new)
        return True

    def _takeover(self) -> Takeover:
        takeover = self._scene.journal.takeover
        assert takeover is not None
        return takeover


class _Output:
    """What a command adds to its log: lines for people, then its report as JSON."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._seen = log.stat().st_size if log.exists() else 0
        self._report: list[bytes] = []

    def new_lines(self) -> list[str]:
        """Since the last time; without steps that only begin."""
        with self._log.open("rb") as file:
            file.seek(self._seen)
            found = file.read()
        whole = found[: found.rfind(b"\n") + 1]
        self._seen += len(whole)
        lines = []
        for line in whole.splitlines():
            if self._report or line.startswith(b"{"):
                self._report.append(line)
            elif line and not line.endswith(b" ..."):
                lines.append(line.decode(errors="replace"))
        return lines

    def report(self) -> dict[str, Any]:
        """Empty when there is none."""
        return orjson.loads(b"\n".join(self._report)) if self._report else {}


def _receipts_in(export: Path) -> Iterator[uuid.UUID]:
    """Of the transactions in an export of `cdc rejoin`: each wrote one row of the ledger."""
    with export.open("rb") as lines:
        for line in lines:
            change = orjson.loads(line)
            row = change["event"]["after"]
            if change["table"] == "public.ledger" and row is not None:
                yield uuid.UUID(row["receipt"])
