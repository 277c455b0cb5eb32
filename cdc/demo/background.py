"""Threads that work beside the story, and tell it when they fail."""

from __future__ import annotations

import threading
from collections.abc import Callable

import psycopg

from cdc.demo.errors import database_trouble
from cdc.errors import CdcError

_STOP_SECONDS = 30.0


class Background:
    """Runs `work` in a thread until `stop`. `check` raises what `work` raised.

    `work` gets a function that sleeps for some seconds and says whether to end, as StopToken.wait does.
    """

    def __init__(self, name: str, work: Callable[[Callable[[float], bool]], None]) -> None:
        self._name = name
        self._work = work
        self._end = threading.Event()
        self._error: CdcError | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Wait for its end, bounded. May be called twice, and when it was never started."""
        self._end.set()
        if self._thread.ident is not None:
            self._thread.join(_STOP_SECONDS)

    def check(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            self._work(self._end.wait)
        except psycopg.Error as error:
            self._error = database_trouble(error, self._name)
        except CdcError as error:
            self._error = error
