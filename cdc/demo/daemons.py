"""The group's commands as processes: what ends is waited for, what ends unasked is told."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass

from cdc.demo.errors import DemoError
from cdc.local.group import Group
from cdc.local.processes import tail_of

CAPTURE = ("capture",)


def applier_of(follower: str) -> tuple[str, str]:
    return ("apply", follower)


@dataclass
class Daemon:
    """One of them, with what people want to see of it."""

    command: tuple[str, ...]
    process: subprocess.Popen[bytes]
    since: float
    killed: bool = False
    starts: int = 1

    @property
    def name(self) -> str:
        return " ".join(self.command)

    @property
    def running(self) -> bool:
        return self.process.poll() is None


class Daemons:
    """Capture and the appliers of a group."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self._daemons: dict[tuple[str, ...], Daemon] = {}

    def start(self, command: tuple[str, ...]) -> Daemon:
        process = self._group.start(*command)
        before = self._daemons.get(command)
        starts = before.starts + 1 if before else 1
        self._daemons[command] = Daemon(command, process, time.monotonic(), starts=starts)
        return self._daemons[command]

    def kill(self, command: tuple[str, ...]) -> None:
        daemon = self._daemons[command]
        daemon.killed, daemon.since = True, time.monotonic()
        self._group.kill(daemon.name)

    def all(self) -> list[Daemon]:
        return list(self._daemons.values())

    def check(self) -> None:
        """Raises DemoError when one ended that was not killed."""
        for daemon in self._daemons.values():
            if not daemon.killed and not daemon.running:
                raise self.failure(daemon.name, daemon.process.returncode)

    def failure(self, name: str, code: int) -> DemoError:
        """With the end of its log."""
        return DemoError(f"cdc {name} ended with code {code}", log_tail=tail_of(self._group.log_of(name), 12))

    def stop(self) -> dict[str, int | None]:
        """SIGTERM to each, those that read before the one that writes; None for one that had to be killed."""
        return {daemon.name: self._group.stop(daemon.name) for daemon in reversed(self._daemons.values())}
