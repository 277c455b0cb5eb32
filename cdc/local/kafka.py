"""A Kafka on this machine: what its kinds have in common, and the kind that was given."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from cdc.local.errors import LocalServerError
from cdc.local.folders import OwnedFolder
from cdc.local.processes import end_child, tail_of

READY_SECONDS = 120.0
_STOP_SECONDS = 60.0
_KILL_SECONDS = 15.0


class KafkaServer(ABC):
    """One Kafka, found by `find_kafka()`; what it made is removed by `close()`, or by leaving the `with`.

    `stop()`, `kill()` and `start()` after them keep the address, and the data if it is `durable`.
    Every wait has an end; what fails raises LocalServerError with the tail of the log.
    """

    bootstrap_servers: str
    #: What acknowledged records survive: a kill of the server, or not even that.
    durable: bool = True
    #: Whether the server is ours to stop and kill; a given one is not.
    managed: bool = True
    #: What it is, in words for a person.
    description: str

    @abstractmethod
    def start(self) -> Self:
        """Start, and return when it answers. A running server is left alone."""

    @abstractmethod
    def stop(self) -> None:
        """Let it end in order. A stopped server is left alone."""

    @abstractmethod
    def kill(self) -> None:
        """SIGKILL."""

    @abstractmethod
    def pause(self) -> None:
        """Freeze it: connections stay, nothing answers."""

    @abstractmethod
    def resume(self) -> None:
        """Go on after `pause()`."""

    @abstractmethod
    def close(self) -> None:
        """End it at once and remove everything. May be called twice."""

    @abstractmethod
    def tail_of_log(self, lines: int = 15) -> str:
        """The last lines of its log."""

    @property
    @abstractmethod
    def running(self) -> bool:
        """Whether it runs."""

    def restart(self) -> None:
        """Stop in order, and start."""
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _wait_until_ready(self, process: subprocess.Popen[bytes] | None = None) -> None:
        """Until the broker is registered and lists topics; `process` must live meanwhile."""
        deadline = time.monotonic() + READY_SECONDS

        def check() -> None:
            if process is not None and process.poll() is not None:
                raise LocalServerError(
                    f"Kafka ended with code {process.returncode} while starting", log_tail=self.tail_of_log()
                )
            if time.monotonic() >= deadline:
                raise LocalServerError(
                    f"Kafka does not answer after {READY_SECONDS:g} s",
                    where=self.bootstrap_servers,
                    log_tail=self.tail_of_log(),
                )
            time.sleep(0.1)

        # The client backs off after each refusal, so it is not asked before somebody listens.
        while not _listens(self.bootstrap_servers):
            check()
        client = AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 0})
        while not _answers(client):
            check()


class GivenKafka(KafkaServer):
    """Servers that somebody else runs: used, never stopped."""

    managed = False

    def __init__(self, bootstrap_servers: str) -> None:
        self.bootstrap_servers = bootstrap_servers
        self.description = f"the given Kafka at {bootstrap_servers}"

    def start(self) -> Self:
        self._wait_until_ready()
        return self

    def stop(self) -> None:
        raise self._not_ours("stop")

    def kill(self) -> None:
        raise self._not_ours("kill")

    def pause(self) -> None:
        raise self._not_ours("pause")

    def resume(self) -> None:
        raise self._not_ours("resume")

    def close(self) -> None:
        """Nothing here is ours."""

    def tail_of_log(self, lines: int = 15) -> str:
        return ""

    @property
    def running(self) -> bool:
        return _listens(self.bootstrap_servers)

    def _not_ours(self, verb: str) -> LocalServerError:
        return LocalServerError(f"cannot {verb} a Kafka that was given", "give none, then one is started")


class ProcessKafka(KafkaServer):
    """A Kafka that is one process of ours, in a folder of its own."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.bootstrap_servers = f"127.0.0.1:{port}"
        self._folder = OwnedFolder()
        self._process: subprocess.Popen[bytes] | None = None
        self._paused = False

    @abstractmethod
    def _launch(self, folder: Path) -> subprocess.Popen[bytes]:
        """Start the process; its data, configuration and log are in `folder`."""

    @property
    def log_path(self) -> Path:
        """Its log; gone with the folder."""
        return self._folder.path / "kafka.log"

    @property
    def pid(self) -> int:
        """Its process id; LocalServerError when it does not run."""
        return self._running_process().pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        if self.running:
            return self
        self._process = self._launch(self._folder.path)
        try:
            self._wait_until_ready(self._process)
        except BaseException:
            end_child(self._process, signal.SIGKILL, _KILL_SECONDS)
            self._process = None
            raise
        return self

    def stop(self) -> None:
        if self._process is None:
            return
        self.resume()
        if not end_child(self._process, signal.SIGTERM, _STOP_SECONDS):
            raise LocalServerError(
                f"Kafka did not stop within {_STOP_SECONDS:g} s", "kill it", log_tail=self.tail_of_log()
            )
        self._process = None

    def kill(self) -> None:
        end_child(self._running_process(), signal.SIGKILL, _KILL_SECONDS)
        self._process, self._paused = None, False

    def pause(self) -> None:
        self._running_process().send_signal(signal.SIGSTOP)
        self._paused = True

    def resume(self) -> None:
        if self._paused:
            self._running_process().send_signal(signal.SIGCONT)
            self._paused = False

    def close(self) -> None:
        if self._process is not None:
            end_child(self._process, signal.SIGKILL, _KILL_SECONDS)
            self._process = None
        self._folder.remove()

    def tail_of_log(self, lines: int = 15) -> str:
        return tail_of(self.log_path, lines)

    def _running_process(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            raise LocalServerError("Kafka is not running", "start it first", log_tail=self.tail_of_log())
        return self._process


def _listens(bootstrap_servers: str) -> bool:
    host, _, port = bootstrap_servers.split(",")[0].strip().rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=2).close()
    except (OSError, ValueError):
        return False
    return True


def _answers(client: AdminClient) -> bool:
    try:
        return bool(client.list_topics(timeout=2).brokers)
    except KafkaException:
        return False
