"""Apache Kafka's own image in a container, when an engine answers."""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path

from cdc.local.errors import LocalServerError
from cdc.local.kafka import ProcessKafka
from cdc.local.kafka_jars import kafka_version
from cdc.local.ports import free_port
from cdc.local.processes import end_child, start_child

# An engine that does not answer is none: this must not hold up those who have no use for one.
_ENGINE_SECONDS = 5.0
_PULL_SECONDS = 300.0
_END_SECONDS = 30.0
# The value is the folder of the owner; a container whose folder is gone has no owner any more.
_LABEL = "cdc.local.folder"


class ContainerKafka(ProcessKafka):
    """Our process is `docker start --attach`, which hands signals on to Kafka in its container.

    When we are killed the engine stops the container, and the next start removes it.
    """

    def __init__(self, docker: Path) -> None:
        super().__init__(free_port())
        self._docker = docker
        self._container: str | None = None
        self._image = f"apache/kafka:{kafka_version()}"
        self.description = f"Apache Kafka {kafka_version()} in a container"

    def _launch(self, folder: Path) -> subprocess.Popen[bytes]:
        if self._container is None:
            _remove_abandoned(self._docker)
            self._container = _run(self._docker, "create", *self._options(folder), self._image, seconds=_PULL_SECONDS)
        return start_child(
            [self._docker, "start", "--attach", self._container],
            output=self.log_path,
            folder=folder,
            death_signal=signal.SIGTERM,  # SIGKILL would end the client alone
        )

    def kill(self) -> None:
        process = self._running_process()
        self._engine("kill")
        end_child(process, signal.SIGTERM, _END_SECONDS)
        self._process, self._paused = None, False

    def pause(self) -> None:
        self._engine("pause")
        self._paused = True

    def resume(self) -> None:
        if self._paused:
            self._engine("unpause")
            self._paused = False

    def close(self) -> None:
        try:
            if self._container is not None:
                _run(self._docker, "rm", "--force", "--volumes", self._container)
                self._container = None
        finally:
            super().close()

    def _engine(self, verb: str) -> None:
        self._running_process()
        _run(self._docker, verb, str(self._container))

    def _options(self, folder: Path) -> list[str]:
        settings = {
            "NODE_ID": "1",
            "PROCESS_ROLES": "broker,controller",
            "LISTENERS": f"PLAINTEXT://:{self.port},CONTROLLER://:9093",
            "ADVERTISED_LISTENERS": f"PLAINTEXT://{self.bootstrap_servers}",
            "CONTROLLER_LISTENER_NAMES": "CONTROLLER",
            "LISTENER_SECURITY_PROTOCOL_MAP": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
            "CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
            "AUTO_CREATE_TOPICS_ENABLE": "false",
            "OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
            "TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
            "TRANSACTION_STATE_LOG_MIN_ISR": "1",
            "SHARE_COORDINATOR_STATE_TOPIC_REPLICATION_FACTOR": "1",
            "SHARE_COORDINATOR_STATE_TOPIC_MIN_ISR": "1",
            "GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
            "BROKER_SESSION_TIMEOUT_MS": "3000",
            "BROKER_HEARTBEAT_INTERVAL_MS": "500",
        }
        options = ["--label", f"{_LABEL}={folder}", "--publish", f"127.0.0.1:{self.port}:{self.port}"]
        options += ["--env", "KAFKA_HEAP_OPTS=-Xmx512m"]
        for name, value in settings.items():
            options += ["--env", f"KAFKA_{name}={value}"]
        return options


def find_engine() -> Path:
    """The client of a container engine that answers; LocalServerError when there is none."""
    docker = shutil.which("docker")
    if docker is None:
        raise LocalServerError("no container engine is installed", "install Docker")
    try:
        _run(Path(docker), "info", "--format", "{{.ServerVersion}}", seconds=_ENGINE_SECONDS)
    except LocalServerError as error:
        raise LocalServerError("the container engine does not answer", "start Docker") from error
    return Path(docker)


def _remove_abandoned(docker: Path) -> None:
    listed = _run(
        docker, "ps", "--all", "--filter", f"label={_LABEL}", "--format", f'{{{{.ID}}}} {{{{.Label "{_LABEL}"}}}}'
    )
    for line in listed.splitlines():
        container, _, folder = line.partition(" ")
        if not Path(folder).exists():
            _run(docker, "rm", "--force", "--volumes", container)


def _run(docker: Path, *arguments: str, seconds: float = _END_SECONDS) -> str:
    try:
        answer = subprocess.run(
            [docker, *arguments], check=False, capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise LocalServerError(f"docker {arguments[0]} failed: {error}") from error
    if answer.returncode != 0:
        raise LocalServerError(f"docker {arguments[0]} failed: {answer.stderr.strip()}")
    return answer.stdout.strip()
