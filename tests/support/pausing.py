"""Processes that stand still: SIGSTOP, and SIGCONT at the end."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress


@contextmanager
def paused(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Its connections stay, and it does nothing."""
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def send(number: signal.Signals, pids: Iterable[int]) -> None:
    """To each of them that is still there: workers of a server come and go."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
