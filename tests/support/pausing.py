"""Processes that stand still: SIGSTOP, and SIGCONT at the end."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Its connections stay, and it does nothing."""
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)
