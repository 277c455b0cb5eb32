"""Breaks one part of the group of compose.yaml every so many seconds: `chaos.py SECONDS`. What it does it undoes."""

from __future__ import annotations

import http.client
import json
import os
import random
import socket
import sys
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

SOCKET = "/var/run/docker.sock"
KILLED = ("capture", "apply-eu-west", "apply-ap-south", "kafka", "eu-west", "ap-south", "us-east")
CUT = ("capture", "apply-eu-west", "apply-ap-south")


class Engine(http.client.HTTPConnection):
    """The engine's HTTP interface, by its socket."""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(SOCKET)


def call(method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """What the engine answers. Raises RuntimeError with its complaint."""
    engine = Engine("localhost")
    try:
        text = json.dumps(body) if body is not None else None
        engine.request(method, path, text, {"Content-Type": "application/json"} if text else {})
        answer = engine.getresponse()
        content = answer.read()
        if answer.status >= 400:
            raise RuntimeError(f"{method} {path}: {content.decode(errors='replace').strip()}")
        return json.loads(content) if content else None
    finally:
        engine.close()


def containers() -> dict[str, tuple[str, dict[str, Any]]]:
    """Of our project, by service: id and networks."""
    project = call("GET", f"/containers/{os.uname().nodename}/json")["Config"]["Labels"]["com.docker.compose.project"]
    labels = quote(json.dumps({"label": [f"com.docker.compose.project={project}"]}))
    return {
        each["Labels"]["com.docker.compose.service"]: (each["Id"], each["NetworkSettings"]["Networks"])
        for each in call("GET", f"/containers/json?all=true&filters={labels}")
    }


def kill(service: str, seconds: float) -> None:
    container, _ = containers()[service]
    call("POST", f"/containers/{container}/kill")
    time.sleep(seconds)
    call("POST", f"/containers/{container}/start")


def freeze(service: str, seconds: float) -> None:
    container, _ = containers()[service]
    call("POST", f"/containers/{container}/pause")
    time.sleep(seconds)
    call("POST", f"/containers/{container}/unpause")


def cut(service: str, seconds: float) -> None:
    container, networks = containers()[service]
    for name in networks:
        call("POST", f"/networks/{name}/disconnect", {"Container": container, "Force": True})
    time.sleep(seconds)
    for name in networks:
        call("POST", f"/networks/{name}/connect", {"Container": container, "EndpointConfig": {"Aliases": [service]}})


def main(pause: float) -> None:
    ways: list[tuple[Callable[[str, float], None], tuple[str, ...]]] = [(kill, KILLED), (freeze, KILLED), (cut, CUT)]
    while True:
        time.sleep(pause)
        way, services = random.choice(ways)
        service, seconds = random.choice(services), random.uniform(1, 10)
        print(f"{way.__name__} {service} for {seconds:.0f} s", flush=True)
        try:
            way(service, seconds)
        except (RuntimeError, KeyError) as error:  # it was restarted by the engine, or is gone
            print(f"  {error}", flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]))
