"""The HTTP end of a daemon: a few threads that answer GET, and never hold up anybody else.

They are as many as there ever are, however many ask; none of them is waited for when the process ends.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from socketserver import TCPServer
from types import TracebackType
from typing import Self

import structlog

from cdc.errors import CheckError, ConfigError

log = structlog.get_logger(__name__)

_THREADS = 4
_PATIENCE_SECONDS = 5.0
"""With a client that says or takes nothing."""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:"


@dataclass(frozen=True, slots=True)
class Answer:
    """One response."""

    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    status: int = 200


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen; an empty host is every interface."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """`HOST:PORT`, `[IPV6]:PORT` or `:PORT`. Raises ConfigError."""
        host, colon, port = text.rpartition(":")
        bare = host.removeprefix("[").removesuffix("]")
        if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535 or (":" in host and host == bare):
            raise ConfigError(f"{text} is not an address", "write it HOST:PORT, for instance 127.0.0.1:9400", "--http")
        return cls(bare, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class DaemonServer:
    """Serves while entered."""

    def __init__(self, address: Address, pages: Mapping[str, Callable[[], Answer]]) -> None:
        """Binds; `pages` by path. Raises CheckError when the address cannot be had."""
        try:
            self._server = _Server(address, pages)
        except (OSError, UnicodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "no name of a host"
            raise CheckError(
                f"cannot listen there: {reason}", "name another address, or end what uses it", f"--http {address}"
            ) from error

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def __enter__(self) -> Self:
        for number in range(_THREADS):
            threading.Thread(target=self._serve, name=f"http-{number}", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.server_close()

    def _serve(self) -> None:
        with suppress(OSError, ValueError):  # closed under us: the process ends
            while True:
                self._server.handle_request()


class _Server(HTTPServer):
    request_queue_size = 64

    def __init__(self, address: Address, pages: Mapping[str, Callable[[], Answer]]) -> None:
        self.pages = pages
        family, *_, place = socket.getaddrinfo(
            address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        self.address_family = family
        super().__init__((str(place[0]), int(place[1])), _Handler)

    def server_bind(self) -> None:
        # HTTPServer's own would ask the name service who we are, which may take long.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: object, client_address: object) -> None:
        log.debug("an http client was lost")


class _Handler(BaseHTTPRequestHandler):
    timeout = _PATIENCE_SECONDS
    server_version = "cdc"
    sys_version = ""
    server: _Server

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        answer = self._page(self.path.partition("?")[0])
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Security-Policy", _POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        if with_body:
            self.wfile.write(answer.body)

    def _page(self, path: str) -> Answer:
        page = self.server.pages.get(path)
        if page is None:
            return Answer(f"no such page; there are {', '.join(self.server.pages)}\n".encode(), status=404)
        try:
            return page()
        except Exception as error:
            # Whoever watches must not break what is watched.
            log.error("a page could not be made", page=path, error=type(error).__name__)
            return Answer(b"this page could not be made, see the log\n", status=500)

    def log_message(self, format: str, *arguments: object) -> None:
        return
