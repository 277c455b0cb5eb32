"""Child processes that never outlive us.

`start_child` ties a child to this process: when this one ends in whatever way, SIGKILL included, the
kernel sends the child its death signal. Linux sends that signal when the *thread* that started the
child ends, so all children are started by one thread that lives as long as the process.

Children are in sessions of their own: Ctrl-C reaches only us, and we stop them in our order.
"""

from __future__ import annotations

import os
import pwd
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import NamedTuple

from cdc.local.errors import LocalServerError

_LAUNCHER = Path(__file__).with_name("launch.py")
_TAIL_BYTES = 64 * 1024


class Account(NamedTuple):
    """The user that a child runs as."""

    name: str
    uid: int
    gid: int


def unprivileged_account() -> Account | None:
    """Whom servers run as that refuse root: `postgres`, else `nobody`. None when we are not root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name, entry.pw_uid, entry.pw_gid)
    raise LocalServerError("we are root, and there is no user to run PostgreSQL as", "add a user named postgres")


def start_child(
    command: Sequence[str | Path],
    *,
    output: Path | None = None,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    account: Account | None = None,
    death_signal: signal.Signals = signal.SIGKILL,
) -> subprocess.Popen[bytes]:
    """Start `command` and return it; `pid` is that of the command itself.

    Standard output and error are appended to the file `output` (None: they stay ours). A command
    that cannot be run ends with code 127 and says why in its output. `folder` is where it runs;
    `environment` replaces ours; `account` needs us to be root.
    """
    user = f"{account.uid}:{account.gid}" if account else "-"
    launcher = [sys.executable, "-I", "-S", str(_LAUNCHER), str(os.getpid()), str(int(death_signal)), user]

    def start() -> subprocess.Popen[bytes]:
        log = output.open("ab") if output else None
        try:
            return subprocess.Popen(
                [*launcher, *map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT if log else None,
                cwd=folder,
                env=dict(environment) if environment is not None else None,
                start_new_session=True,
            )
        finally:
            if log:
                log.close()

    return _starter().run(start)


def end_child(process: subprocess.Popen[bytes], how: signal.Signals, seconds: float) -> bool:
    """Send `how` and wait; False when it still runs after `seconds`. A dead child is no error."""
    if process.poll() is None:
        process.send_signal(how)
    return wait_for_end(process, seconds)


def wait_for_end(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Wait for the end of a child; False when it still runs after `seconds`."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def run_child(
    command: Sequence[str | Path],
    *,
    seconds: float,
    output: Path,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    account: Account | None = None,
) -> None:
    """Run `command` to its end; LocalServerError with the tail of `output` if it fails or takes too long."""
    process = start_child(command, output=output, folder=folder, environment=environment, account=account)
    name = Path(command[0]).name
    try:
        if not wait_for_end(process, seconds):
            raise LocalServerError(f"{name} did not end within {seconds:g} s", log_tail=tail_of(output))
    finally:
        end_child(process, signal.SIGKILL, 10)
    if process.returncode != 0:
        raise LocalServerError(f"{name} failed with code {process.returncode}", log_tail=tail_of(output))


def wait_for(condition: Callable[[], bool], *, seconds: float, pause: float = 0.05) -> bool:
    """Ask again and again until `condition` holds; False when it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(pause)
    return True


def tail_of(log: Path, lines: int = 15) -> str:
    """The last lines of a log file, each indented; empty when there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(f"  {line}" for line in text.splitlines()[-lines:])


class _Starter:
    """The thread that starts every child; a daemon thread ends with the process and never before."""

    def __init__(self) -> None:
        self.process_id = os.getpid()
        self._jobs: queue.SimpleQueue[tuple[Callable[[], subprocess.Popen[bytes]], Future[subprocess.Popen[bytes]]]]
        self._jobs = queue.SimpleQueue()
        threading.Thread(target=self._loop, name="child-starter", daemon=True).start()

    def run(self, start: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
        started: Future[subprocess.Popen[bytes]] = Future()
        self._jobs.put((start, started))
        try:
            return started.result()
        except BaseException:
            # Ctrl-C came while we waited: nobody would ever hold, and so stop, this child.
            started.add_done_callback(_kill_unwanted)
            raise

    def _loop(self) -> None:
        while True:
            start, started = self._jobs.get()
            try:
                started.set_result(start())
            except BaseException as error:  # handed to the caller, who raises it
                started.set_exception(error)


def _kill_unwanted(started: Future[subprocess.Popen[bytes]]) -> None:
    if started.exception() is None:
        started.result().kill()
        started.result().wait()


_the_starter: _Starter | None = None
_the_starter_lock = threading.Lock()


def _starter() -> _Starter:
    global _the_starter
    with _the_starter_lock:
        # A fork has our memory but not our threads.
        if _the_starter is None or _the_starter.process_id != os.getpid():
            _the_starter = _Starter()
        return _the_starter
