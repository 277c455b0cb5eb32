"""A TCP proxy between a client and a server, whose link a test can spoil while it runs.

    with Proxy(server_address) as proxy:
        pipeline = ... connects to proxy.address ...
        with proxy.during(HALF_OPEN):
            ...

Every chance comes from the seed. A half-open proxy still answers TCP keepalives, as a load balancer in between does:
what notices it must ask at a level above TCP.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from cdc.local.apache_kafka import ApacheKafka
from cdc.local.ports import free_port

_CALL_SECONDS = 10.0
_CHUNK_BYTES = 64 * 1024
_QUEUED_CHUNKS = 64
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Link:
    """What the network does to every connection, those that exist included."""

    refuses: bool = False
    """Nobody listens, and what was open is closed."""
    stalls: bool = False
    """Connections are taken and stay, and no byte moves."""
    latency_seconds: float = 0.0
    """Added to each direction."""
    bytes_per_second: int | None = None
    """Of each direction of each connection."""
    reset_chance: float = 0.0
    """Of an RST to both sides, for each chunk of up to 64 KiB."""
    reset_after_bytes: int | None = None
    """One RST to both sides of the connection that moves this byte, counted since the link became so."""
    corrupt_chance: float = 0.0
    """Of one changed byte in a chunk."""


PASS = Link()
CUT = Link(refuses=True)
HALF_OPEN = Link(stalls=True)


class Proxy:
    """Listens on a free port of 127.0.0.1, the same until it is closed. Safe to use from several threads."""

    def __init__(self, target: str, *, port: int | None = None, seed: int = 0) -> None:
        """`target` is HOST:PORT. A target that is down looks like a connection that closes at once."""
        host, _, target_port = target.rpartition(":")
        self._target = (host, int(target_port))
        self.port = port or free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.accepted = 0
        """Connections since the beginning."""
        self._random = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy-{self.port}", daemon=True)
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.link = PASS
        self._moving = asyncio.Event()
        self._bytes_left: int | None = None

    @property
    def connections(self) -> int:
        """How many clients are connected now."""
        return len(self._connections)

    def set(self, link: Link) -> None:
        """The link is so from now on; returns when it is."""
        self._call(self._become(link))

    @contextmanager
    def during(self, link: Link) -> Iterator[None]:
        """The link is so inside, and passes everything afterwards."""
        self.set(link)
        try:
            yield
        finally:
            self.set(PASS)

    @contextmanager
    def flapping(self, every_seconds: float, links: Sequence[Link] = (CUT, PASS)) -> Iterator[None]:
        """Inside, the link changes from one of `links` to the next again and again; afterwards it passes everything."""
        end = threading.Event()

        def flap() -> None:
            turn = 0
            while not end.is_set():
                with suppress(OSError):  # a client that met itself on the port that is not listened on may hold it
                    self.set(links[turn % len(links)])
                turn += 1
                end.wait(every_seconds)

        thread = threading.Thread(target=flap, name=f"flap-{self.port}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            end.set()
            thread.join(_CALL_SECONDS)
            self.set(PASS)

    def reset_all(self) -> None:
        """An RST to both sides of every connection that is open now."""
        self._loop.call_soon_threadsafe(self._reset_all)

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self.set(PASS)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Closes everything. May be called twice."""
        if self._loop.is_closed():
            return
        if self._thread.is_alive():
            self._call(self._end())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_CALL_SECONDS)
        self._loop.close()

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(_CALL_SECONDS)

    # in the thread of the loop

    async def _become(self, link: Link) -> None:
        self.link = link
        self._bytes_left = link.reset_after_bytes
        if link.stalls:
            self._moving.clear()
        else:
            self._moving.set()
        if link.refuses:
            await self._refuse()
        elif self._server is None:
            self._server = await asyncio.start_server(self._serve, sock=self._listener(), limit=_CHUNK_BYTES)

    def _listener(self) -> socket.socket:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        return listener

    async def _refuse(self) -> None:
        if self._server is not None:
            for listener in self._server.sockets:
                self._loop.remove_reader(listener.fileno())
            for _ in range(3):  # asyncio drops, unclosed, what it has accepted when the server closes meanwhile
                await asyncio.sleep(0)
            self._server.close()
            self._server = None
        for connection in list(self._connections):
            connection.close()

    async def _end(self) -> None:
        await self._refuse()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _reset_all(self) -> None:
        for connection in list(self._connections):
            connection.reset()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        connection = _Connection(writer)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._connections.add(connection)
        try:
            await self._relay(connection, reader)
        except (OSError, asyncio.CancelledError):
            pass  # the end of a connection, ours or theirs
        finally:
            connection.close()
            self._connections.discard(connection)
            self._tasks.discard(task)

    async def _relay(self, connection: _Connection, reader: asyncio.StreamReader) -> None:
        await self._moving.wait()
        target_reader, target_writer = await asyncio.open_connection(*self._target, limit=_CHUNK_BYTES)
        connection.add(target_writer)
        client_writer = connection.writers[0]
        pumps = [
            asyncio.ensure_future(self._pump(connection, reader, target_writer)),
            asyncio.ensure_future(self._pump(connection, target_reader, client_writer)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(self, connection: _Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One direction, until its sender ends it."""
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_QUEUED_CHUNKS)
        sender = asyncio.ensure_future(self._send(connection, queue, writer))
        try:
            while data := await reader.read(_CHUNK_BYTES):
                await self._moving.wait()
                await queue.put((self._loop.time() + self.link.latency_seconds, data))
            await queue.put((self._loop.time() + self.link.latency_seconds, b""))
            await sender
        finally:
            sender.cancel()
            with suppress(OSError, asyncio.CancelledError):
                await sender

    async def _send(
        self, connection: _Connection, queue: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter
    ) -> None:
        while True:
            due, data = await queue.get()
            await asyncio.sleep(due - self._loop.time())
            await self._moving.wait()
            if not data:
                return
            link = self.link
            if self._is_fatal(link, len(data)):
                connection.reset()
                return
            writer.write(self._spoilt(data) if self._happens(link.corrupt_chance) else data)
            await writer.drain()
            if link.bytes_per_second:
                await asyncio.sleep(len(data) / link.bytes_per_second)

    def _is_fatal(self, link: Link, size: int) -> bool:
        if self._bytes_left is not None:
            self._bytes_left -= size
            if self._bytes_left < 0:
                self._bytes_left = None
                return True
        return self._happens(link.reset_chance)

    def _happens(self, chance: float) -> bool:
        return chance > 0 and self._random.random() < chance

    def _spoilt(self, data: bytes) -> bytes:
        changed = bytearray(data)
        changed[self._random.randrange(len(changed))] ^= self._random.randrange(1, 256)
        return bytes(changed)


def before_kafka(kafka: ApacheKafka, seed: int = 0) -> Proxy:
    """A proxy whose clients stay behind it, whatever address the broker sends them to. `kafka` is not started yet."""
    port = free_port()
    return Proxy(kafka.listen_for(f"127.0.0.1:{port}"), port=port, seed=seed)


class _Connection:
    """Both ends of one client's connection."""

    def __init__(self, client: asyncio.StreamWriter) -> None:
        self.writers = [client]

    def add(self, target: asyncio.StreamWriter) -> None:
        self.writers.append(target)

    def close(self) -> None:
        self._end(lambda _: None)

    def reset(self) -> None:
        self._end(lambda end: end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE))

    def _end(self, prepare: Callable[[Any], None]) -> None:
        for writer in self.writers:
            with suppress(OSError):
                prepare(writer.get_extra_info("socket"))
            writer.transport.abort()
