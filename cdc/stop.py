"""The flag that ends a daemon: set by a signal, listened to by every loop and every wait."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from types import FrameType


class StopToken:
    """Set once; waits on it end at once. Safe to set from a signal handler or another thread.

    Not a `threading.Event`: its lock would be taken a second time when the signal comes inside `wait`.
    `SimpleQueue.put` is made for that (manual of `queue`).
    """

    def __init__(self) -> None:
        self._is_set = False
        self._wake: SimpleQueue[None] = SimpleQueue()

    def set(self) -> None:
        self._is_set = True
        self._wake.put(None)

    def is_set(self) -> bool:
        return self._is_set

    def wait(self, seconds: float) -> bool:
        """Sleep for at most `seconds`; True when the token was set."""
        if not self._is_set:
            with suppress(Empty):
                self._wake.get(timeout=max(0.0, seconds))
                self._wake.put(None)  # for whoever else waits
        return self._is_set


@contextmanager
def stop_on_signals() -> Iterator[StopToken]:
    """SIGTERM and SIGINT set the token; a second one of them ends the process as usual."""
    token = StopToken()

    def handle(number: int, _frame: FrameType | None) -> None:
        if token.is_set():
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        token.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield token
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
