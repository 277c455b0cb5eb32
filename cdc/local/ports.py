"""Ports that stay ours while a server restarts."""

from __future__ import annotations

import random
import socket

from cdc.local.errors import LocalServerError

# Below every usual range of ephemeral ports (Linux: from 32768): while our server is down, no
# outgoing connection of this machine can take its port by chance.
_FIRST, _LAST = 20_000, 32_000
_ATTEMPTS = 200

_given: dict[int, socket.socket] = {}
"""With what keeps each from other processes that look for one."""


def free_port() -> int:
    """A port of 127.0.0.1 on which nothing listens; given to no other caller while this process lives.

    A stranger may still take it before it is used: start the server, and choose again if it
    says that the address is in use.
    """
    for _ in range(_ATTEMPTS):
        port = random.randint(_FIRST, _LAST)
        claim = _claimed(port)
        if claim is None:
            continue
        if _is_free(port):
            _given[port] = claim
            return port
        claim.close()
    raise LocalServerError(f"no free port between {_FIRST} and {_LAST} on 127.0.0.1")


def _claimed(port: int) -> socket.socket | None:
    """What says for as long as it is open that the port is ours; None when it is another's.

    A name of Linux's that is in no file system (manual page unix(7), "abstract"). As ports, such names belong to a
    network namespace, and they end with their process.
    """
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        claim.bind(f"\0cdc-port-{port}")
    except OSError:
        claim.close()
        return None
    return claim


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
