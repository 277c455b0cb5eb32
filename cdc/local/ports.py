"""Ports that stay ours while a server restarts."""

from __future__ import annotations

import random
import socket

from cdc.local.errors import LocalServerError

# Below every usual range of ephemeral ports (Linux: from 32768): while our server is down, no
# outgoing connection of this machine can take its port by chance.
_FIRST, _LAST = 20_000, 32_000
_ATTEMPTS = 200

_given: set[int] = set()


def free_port() -> int:
    """A port of 127.0.0.1 on which nothing listens; never the same twice in one process.

    Another process may still take it before it is used: start the server, and choose again if it
    says that the address is in use.
    """
    for _ in range(_ATTEMPTS):
        port = random.randint(_FIRST, _LAST)
        if port not in _given and _is_free(port):
            _given.add(port)
            return port
    raise LocalServerError(f"no free port between {_FIRST} and {_LAST} on 127.0.0.1")


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
