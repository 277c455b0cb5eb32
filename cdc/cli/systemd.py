"""What systemd is told of a daemon that it supervises: sd_notify(3), datagrams to the socket named in NOTIFY_SOCKET.

Ready is not started: it is told when the daemon does what it is there for. The watchdog is fed as long as its loop
comes round, or waits for a statement of its follower, whether or not it gets anywhere: a new start helps against a loop
that hangs, not against a server that is away, and a statement that takes hours would begin anew.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from cdc.services.health import Condition, Health

_LOOK_SECONDS = 1.0


@contextmanager
def told_to_systemd(health: Health) -> Iterator[None]:
    """Meanwhile; nothing where nobody asks for it."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        yield
        return
    ended = threading.Event()
    watch = threading.Thread(target=_watch, args=(address, health, ended), name="systemd", daemon=True)
    watch.start()
    try:
        yield
    finally:
        ended.set()
        watch.join(_LOOK_SECONDS)


def _watch(address: str, health: Health, ended: threading.Event) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:

        def tell(*lines: str) -> None:
            with suppress(OSError):  # supervised or not, the daemon works
                name = "\0" + address[1:] if address.startswith("@") else address
                channel.sendto("\n".join(lines).encode(), name)

        ready = False
        while not ended.is_set():
            found = health.condition()
            if found.ok and not ready:
                ready = True
                tell("READY=1")
            tell(f"STATUS={_line(found)}", *([] if health.hangs() else ["WATCHDOG=1"]))
            ended.wait(_LOOK_SECONDS)
        tell("STOPPING=1")


def _line(found: Condition) -> str:
    """One line, as systemctl status shows it."""
    return " ".join(f"{found.state}: {found.problem}".split()) if found.problem else found.state
