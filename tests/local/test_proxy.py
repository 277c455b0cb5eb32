"""The proxy of the tests does what it says; every fault that others test with it rests on that."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from cdc.local.processes import wait_for
from tests.support.proxy import CUT, HALF_OPEN, PASS, Link, Proxy


@contextmanager
def echo_server() -> Iterator[str]:
    """Sends back what it gets; gives its address."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while data := connection.recv(65536):
                connection.sendall(data)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with echo_server() as address, Proxy(address) as proxy:
        yield proxy


@contextmanager
def client(proxy: Proxy, timeout: float = 5.0) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=timeout) as connection:
        yield connection


def echoed(connection: socket.socket, data: bytes) -> bytes:
    """What comes back for `data`; less of it when the connection ends before."""
    connection.sendall(data)
    found = b""
    while len(found) < len(data) and (more := connection.recv(65536)):
        found += more
    return found


def test_bytes_pass_both_ways_and_connections_are_counted(proxy: Proxy):
    assert proxy.connections == 0
    with client(proxy) as one, client(proxy) as other:
        assert echoed(one, b"one" * 1000) == b"one" * 1000
        assert echoed(other, b"other") == b"other"
        assert proxy.connections == proxy.accepted == 2
    assert wait_for(lambda: proxy.connections == 0, seconds=5)


def test_a_cut_closes_what_is_open_and_refuses_what_comes(proxy: Proxy):
    with client(proxy) as connection:
        assert echoed(connection, b"x") == b"x"
        with proxy.during(CUT):
            assert connection.recv(1) == b""
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", proxy.port), timeout=5)
    with client(proxy) as connection:
        assert echoed(connection, b"x") == b"x"


def test_a_half_open_link_takes_connections_and_moves_nothing_until_it_passes_again(proxy: Proxy):
    with client(proxy, timeout=0.3) as before:
        assert echoed(before, b"x") == b"x"
        with proxy.during(HALF_OPEN), client(proxy, timeout=0.3) as new:
            for connection in (before, new):
                with pytest.raises(TimeoutError):
                    echoed(connection, b"y")
            proxy.set(PASS)
            for connection in (before, new):
                connection.settimeout(5)
                assert connection.recv(1) == b"y"


def test_latency_is_added_to_each_direction_and_does_not_bound_the_rate(proxy: Proxy):
    proxy.set(Link(latency_seconds=0.1))
    with client(proxy) as connection:
        started = time.monotonic()
        assert echoed(connection, bytes(2**20)) == bytes(2**20)
        assert 0.2 <= time.monotonic() - started < 3


def test_a_rate_is_kept(proxy: Proxy):
    proxy.set(Link(bytes_per_second=100_000))
    with client(proxy) as connection:
        started = time.monotonic()
        for _ in range(5):
            assert echoed(connection, bytes(10_000)) == bytes(10_000)
        assert time.monotonic() - started > 0.4


@pytest.mark.parametrize("link", [Link(reset_chance=1.0), Link(reset_after_bytes=10)])
def test_a_reset_is_an_rst_and_comes_when_it_is_due(proxy: Proxy, link: Link):
    proxy.set(link)
    with client(proxy) as connection, pytest.raises(ConnectionResetError):
        echoed(connection, b"x" * 11)
    proxy.set(PASS)
    with client(proxy) as connection:
        assert echoed(connection, b"x" * 11) == b"x" * 11
        proxy.reset_all()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)


def test_the_same_seed_spoils_the_same_bytes():
    def spoilt(seed: int) -> bytes:
        with echo_server() as address, Proxy(address, seed=seed) as proxy, client(proxy) as connection:
            proxy.set(Link(corrupt_chance=1.0))
            return echoed(connection, bytes(1000))

    assert spoilt(1) == spoilt(1) != spoilt(2)
    assert 1 <= sum(byte != 0 for byte in spoilt(1)) <= 2, "one byte each way"


def test_a_flapping_link_comes_and_goes_and_stays_in_the_end(proxy: Proxy):
    def answers() -> bool:
        with suppress(OSError), client(proxy) as connection:
            return echoed(connection, b"x") == b"x"
        return False

    with proxy.flapping(0.37):
        for wanted in (True, False, True):
            assert wait_for(lambda: answers() == wanted, seconds=30)  # noqa: B023
    assert wait_for(answers, seconds=30)
