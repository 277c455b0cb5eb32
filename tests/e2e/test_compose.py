"""The group of docker/compose.yaml, where a container engine answers: it runs, is promoted, and survives its chaos."""

from __future__ import annotations

import json
import os
import re
import subprocess
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdc.local.processes import wait_for

FOLDER = Path(__file__).parents[2] / "docker"
NODES = ("us-east", "eu-west", "ap-south")
LEDGER = "SELECT count(*), max(number), md5(string_agg(receipt::text, ',' ORDER BY number)) FROM ledger"


class Composed:
    """A project of a name and ports of its own, without the service whose image is large and not ours: Grafana."""

    def __init__(self) -> None:
        self.project = f"cdc-{uuid.uuid4().hex[:8]}"
        ports = {f"CDC_{name}_PORT": "0" for name in ("PAGE", "PROMETHEUS", "GRAFANA")}
        self._environment = {**os.environ, **ports}

    def run(self, *arguments: str, seconds: float = 300.0) -> str:
        command = ["docker", "compose", "--project-name", self.project, "-f", "compose.yaml", "-f", "chaos.yaml"]
        done = subprocess.run(
            [*command, *arguments], cwd=FOLDER, env=self._environment, capture_output=True, text=True,
            timeout=seconds, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{' '.join(arguments)}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
        return done.stdout

    def cdc(self, *arguments: str) -> str:
        return self.run("run", "--rm", "cli", *arguments)

    def port(self, service: str, inside: int) -> str:
        return self.run("port", service, str(inside)).strip()

    def ledgers(self) -> set[str]:
        return {self.run("exec", "-T", node, "psql", "-U", "postgres", "-d", "shop", "-Atc", LEDGER) for node in NODES}


def services() -> dict[str, str]:
    """The text of each service of compose.yaml."""
    _, _, text = (FOLDER / "compose.yaml").read_text().partition("\nservices:\n")
    text, _, _ = text.partition("\nvolumes:\n")
    _, *parts = re.split(r"^  ([a-z-]+):", text, flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_a_service_whose_command_the_operator_names_keeps_the_files_that_it_writes():
    ours = {name: text for name, text in services().items() if "<<: *cdc" in text or "<<: *daemon" in text}
    free = [name for name, text in ours.items() if "command:" not in text and "entrypoint:" not in text]
    assert free == ["cli"]
    assert [name for name in free if "kept:/var/lib/cdc" not in ours[name]] == []
    image = (FOLDER / "Dockerfile").read_text()
    assert "WORKDIR /var/lib/cdc\n" in image, "where files without a folder go"
    assert "--home-dir /var/lib/cdc --create-home cdc\n" in image, "a named volume has the owner of the image's folder"


def test_only_daemons_are_asked_for_their_health_and_they_are_not_restarted_for_ever():
    assert "\nHEALTHCHECK" not in (FOLDER / "Dockerfile").read_text()
    daemons = {name for name, text in services().items() if "<<: *daemon" in text}
    assert daemons == {"capture", *(f"apply-{node}" for node in NODES)}
    assert [name for name in daemons if '--http, "0.0.0.0:9187"' not in services()[name]] == []
    daemon = (FOLDER / "compose.yaml").read_text().partition("x-daemon:")[2].partition("\n\n")[0]
    assert "127.0.0.1:9187/healthz" in daemon
    assert "restart: on-failure:3\n" in daemon


@pytest.fixture
def composed(container_engine: Path) -> Iterator[Composed]:
    composed = Composed()
    try:
        daemons = ("capture", *(f"apply-{node}" for node in NODES))
        composed.run("up", "--build", "--detach", "load", *daemons, "prometheus", seconds=900)
        yield composed
    finally:
        # Only volumes of the profiles that are named are taken away, and `cli` is in one.
        composed.run("--profile", "tools", "down", "--volumes", "--timeout", "5")


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_the_group_runs_is_promoted_and_survives_its_chaos(composed: Composed):
    # Given the group under load, then its page and Prometheus see it.
    def page() -> str:
        with urllib.request.urlopen(f"http://{composed.port('capture', 9187)}/readyz", timeout=10) as answer:
            return str(answer.read())

    assert wait_for(lambda: "committed" in composed.run("logs", "load"), seconds=60, pause=1.0)
    assert "streaming" in page()

    def targets_up() -> int:
        address = f"http://{composed.port('prometheus', 9090)}/api/v1/targets"
        with urllib.request.urlopen(address, timeout=10) as answer:
            found = json.loads(answer.read())["data"]["activeTargets"]
        return sum(target["health"] == "up" for target in found)

    assert wait_for(lambda: targets_up() >= 2, seconds=60, pause=1.0)

    # When another one is promoted, then clients go there by themselves.
    assert "lost" in composed.cdc("promote", "--follower", "eu-west", "--report", "promotion.json")
    assert composed.cdc("leader").strip() == "eu-west"
    kept = composed.run("run", "--rm", "--entrypoint", "cat", "cli", "promotion.json")
    assert json.loads(kept)["loss"].startswith("nothing")

    # When parts are killed, frozen and cut off for a minute, then all nodes are equal once the load has stopped.
    composed.run("up", "--detach", "chaos")
    assert wait_for(lambda: composed.run("logs", "chaos").count(" for ") >= 4, seconds=180, pause=2.0)
    composed.run("stop", "chaos", "load")
    composed.run("up", "--detach", "--no-recreate", "--no-deps", *NODES, "kafka", "capture",
                 *(f"apply-{node}" for node in NODES))  # fmt: skip
    assert wait_for(lambda: len(composed.ledgers()) == 1, seconds=120, pause=2.0), composed.ledgers()
