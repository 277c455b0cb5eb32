"""One group's `cdc` commands as real processes: a configuration file, commands that end, daemons that do not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from cdc.local.processes import end_child, start_child, tail_of

_COMMAND = (sys.executable, "-m", "cdc")
_STOP_SECONDS = 15.0


class Group:
    """Daemons have names: `capture`, and `apply NAME`. They end with this process, and with the `with`.

    `nodes` maps names to dsns; `extra` is TOML that is appended to the file.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        leader: str,
        nodes: Mapping[str, str],
        bootstrap_servers: str,
        tables: Iterable[str] = ("public.*",),
        kafka: Mapping[str, int | str] | None = None,
        extra: str = "",
    ) -> None:
        self.name = name
        self.nodes = dict(nodes)
        self.topic = f"{name}.log"
        self.slot = f"cdc_{name.replace('-', '_')}"
        self._folder = folder
        self.config = folder / "cdc.toml"
        self.overrides: dict[str, str] = {}
        """Environment of every command that is started from now on, over this process's own."""
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self.environment: dict[str, dict[str, str]] = {}
        """What each daemon gets from its next start on, besides ours."""
        lines = [f'group = "{name}"', f'leader = "{leader}"', "[kafka]", f'bootstrap_servers = "{bootstrap_servers}"']
        lines += [f"{key} = {_toml(value)}" for key, value in (kafka or {}).items()]
        for node, dsn in nodes.items():
            lines += [f"[nodes.{node}]", f'dsn = "{dsn}"']
        lines += ["[capture]", f"tables = [{', '.join(map(_toml, tables))}]", extra]
        self.config.write_text("\n".join(lines) + "\n")
        self.config.chmod(0o600)

    def run(
        self, *arguments: str, seconds: float = 60.0, failpoint: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """A `cdc` command to its end; its exit code is for the caller to judge."""
        return subprocess.run(
            [*_COMMAND, *arguments],
            env=self._environment() | ({"CDC_FAILPOINT": failpoint} if failpoint else {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def start(self, *arguments: str, failpoint: str | None = None) -> subprocess.Popen[bytes]:
        """A daemon: `start("capture")`, `start("apply", "eu-west")`."""
        command = [arguments[0], "--follower", arguments[1]] if len(arguments) > 1 else list(arguments)
        return self.start_command(" ".join(arguments), *command, failpoint=failpoint)

    def start_command(self, name: str, *command: str, failpoint: str | None = None) -> subprocess.Popen[bytes]:
        """Any command, with a name of the caller's choice; its output goes to `log_of(name)`."""
        environment = self._environment()
        environment.update(self.environment.get(name, {}))
        if failpoint:
            environment["CDC_FAILPOINT"] = failpoint
        self._daemons[name] = start_child(
            [*_COMMAND, *command], output=self.log_of(name), folder=self._folder, environment=environment,
            death_signal=signal.SIGTERM,
        )  # fmt: skip
        return self._daemons[name]

    def daemon(self, name: str) -> subprocess.Popen[bytes]:
        return self._daemons[name]

    def kill(self, name: str) -> None:
        """SIGKILL, as when the machine dies under it."""
        end_child(self._daemons[name], signal.SIGKILL, _STOP_SECONDS)

    def stop(self, name: str) -> int | None:
        """SIGTERM; the exit code, or None when it did not end in time (it is killed then)."""
        process = self._daemons[name]
        if not end_child(process, signal.SIGTERM, _STOP_SECONDS):
            end_child(process, signal.SIGKILL, _STOP_SECONDS)
            return None
        return process.returncode

    def log_of(self, name: str) -> Path:
        return self._folder / f"{name.replace(' ', '-')}.log"

    def tail_of_logs(self) -> str:
        """The end of each daemon's log, for whoever must find out."""
        return "\n".join(f"{name}:\n{tail_of(self.log_of(name))}" for name in self._daemons)

    def close(self) -> None:
        for name in reversed(self._daemons):
            self.stop(name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _environment(self) -> dict[str, str]:
        return {**os.environ, **self.overrides, "CDC_CONFIG": str(self.config)}


def _toml(value: int | str) -> str:
    return str(value) if isinstance(value, int) else f'"{value}"'
