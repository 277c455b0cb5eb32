"""What goes on in a thread of its own beside what is measured."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import Self


class Meanwhile(ABC):
    """Works while the `with` lasts."""

    def __init__(self) -> None:
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    @abstractmethod
    def _work(self) -> None:
        """Until `_done` is set."""
