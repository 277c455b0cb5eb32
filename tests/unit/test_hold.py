"""The first byte of a status update leaves at once, and the rest when its server is let go: by us, or by our kernel."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from cdc.local.processes import wait_for
from cdc.protocol.frames import StandbyStatusUpdate
from connectors.postgres.hold import Hold

STATUS = StandbyStatusUpdate(1, 2, 3, 4).encode()
MESSAGE = b"d" + (4 + len(STATUS)).to_bytes(4, "big") + STATUS
OTHERS = b"what another one sends"
STOPPED = """
import os, signal, socket, sys
from connectors.postgres.hold import Hold
link = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
Hold(link).begin(bytes.fromhex(sys.argv[2]))
os.kill(os.getpid(), signal.SIGSTOP)
"""
MOMENT, LONG = 0.05, 5.0


@contextmanager
def connected() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Our end, without Nagle's delay as libpq's, and the server's."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_connection(listening.getsockname()) as own,
        listening.accept()[0] as server,
    ):
        own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield own, server


def comes_in_time(server: socket.socket, wanted: bytes, seconds: float = LONG) -> None:
    server.settimeout(seconds)
    found = b""
    while len(found) < len(wanted):
        found += server.recv(len(wanted) - len(found))
    assert found == wanted


def test_a_server_gets_a_byte_and_when_it_is_let_go_the_rest_with_what_came_meanwhile():
    with connected() as (own, server):
        hold = Hold(own)
        for _ in range(3):
            hold.begin(STATUS)
            assert hold.lasts
            own.send(OTHERS)
            comes_in_time(server, MESSAGE[:1])
            server.settimeout(MOMENT)
            with pytest.raises(TimeoutError):
                server.recv(1)
            hold.end()
            assert not hold.lasts
            comes_in_time(server, MESSAGE[1:] + OTHERS)
            # And then nothing waits for anything.
            own.send(OTHERS)
            comes_in_time(server, OTHERS)


def test_a_server_is_let_go_by_the_kernel_of_a_process_that_was_stopped():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = str(listening.getsockname()[1])
        stopped = subprocess.Popen([sys.executable, "-c", STOPPED, port, STATUS.hex()])
        try:
            with listening.accept()[0] as server:
                assert wait_for(lambda: psutil.Process(stopped.pid).status() == psutil.STATUS_STOPPED, seconds=30)
                comes_in_time(server, MESSAGE)
        finally:
            stopped.send_signal(signal.SIGKILL)
            stopped.wait()


def test_a_connection_that_is_lost_is_told():
    with connected() as (own, _):
        own.shutdown(socket.SHUT_WR)
        with pytest.raises(BrokenPipeError):
            Hold(own).begin(STATUS)
