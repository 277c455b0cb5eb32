"""The HTTP end of a daemon: whatever clients do, its threads stay few and the process ends when it must."""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdc.cli.http_server import Address, Answer, DaemonServer
from cdc.errors import CheckError, ConfigError


def broken() -> Answer:
    raise RuntimeError("secret")


PAGES = {"/": lambda: Answer(b"hello"), "/sick": lambda: Answer(b"{}", "application/json", 503), "/broken": broken}


@pytest.fixture
def server() -> Iterator[DaemonServer]:
    with DaemonServer(Address("127.0.0.1", 0), PAGES) as running:
        yield running


def get(server: DaemonServer, path: str, method: str = "GET") -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read(), dict(response.getheaders())
    finally:
        connection.close()


def threads() -> int:
    return sum(thread.name.startswith("http-") for thread in threading.enumerate())


def test_pages_have_their_status_and_nothing_may_come_from_elsewhere(server: DaemonServer):
    status, body, headers = get(server, "/?x=1")
    assert (status, body) == (200, b"hello")
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert get(server, "/sick")[:2] == (503, b"{}")
    assert get(server, "/", "HEAD")[:2] == (200, b"")
    status, body, _ = get(server, "/etc/passwd")
    assert (status, b"/sick" in body) == (404, True)
    assert get(server, "/", "POST")[0] == 501


def test_a_page_that_breaks_says_nothing_of_why(server: DaemonServer):
    status, body, _ = get(server, "/broken")
    assert (status, b"secret" in body) == (500, False)
    assert get(server, "/")[0] == 200


@pytest.mark.long
def test_many_clients_make_no_more_threads(server: DaemonServer):
    # Given clients that connect and say nothing, and some that vanish in the middle.
    before = threads()
    silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(40)]
    for one in silent[::2]:
        one.send(b"GET / HTTP/1.0\r\n")
        one.close()
    # Then one that asks is answered as soon as those were given up, by the same threads.
    assert get(server, "/")[0] == 200
    assert threads() == before
    for one in silent:
        one.close()


@pytest.mark.parametrize("text", ["9400", "host:", "host:http", "host:70000", "::1:9400", "", "host:-1"])
def test_what_is_no_address_is_told(text: str):
    with pytest.raises(ConfigError, match="HOST:PORT"):
        Address.parse(text)


def test_addresses():
    assert Address.parse("127.0.0.1:9400") == Address("127.0.0.1", 9400)
    assert Address.parse("[::1]:9400") == Address("::1", 9400)
    assert Address.parse(":9400") == Address("", 9400)
    assert str(Address("::1", 9400)) == "[::1]:9400"


def test_a_port_that_is_taken_is_one_clear_line(server: DaemonServer):
    with pytest.raises(CheckError) as error:
        DaemonServer(Address("127.0.0.1", server.port), PAGES)
    assert str(error.value) == (
        f"--http 127.0.0.1:{server.port}: cannot listen there: Address already in use. "
        "To do: name another address, or end what uses it"
    )


def test_a_process_ends_though_clients_hold_all_threads():
    program = """
import sys
from cdc.cli.http_server import Address, Answer, DaemonServer
with DaemonServer(Address("127.0.0.1", 0), {"/": lambda: Answer(b"")}) as server:
    print(server.port, flush=True)
    sys.stdin.readline()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        cwd=Path(__file__).parents[2],
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        port = int(process.stdout.readline())
        held = [socket.create_connection(("127.0.0.1", port)) for _ in range(10)]
        time.sleep(0.2)
        process.stdin.write("\n")
        process.stdin.flush()
        try:
            assert process.wait(30) == 0
        finally:
            process.kill()
            for one in held:
                one.close()
