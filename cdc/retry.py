"""Retrying of what is expected to pass, in one place: exponential, jittered, capped, stoppable."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from cdc.errors import BlockedError, CdcError, RefusedError, RetryableError
from cdc.stop import StopToken

log = structlog.get_logger(__name__)


@dataclass
class Backoff:
    """Waits grow from `first` to `cap` seconds, each with full jitter down to half of it."""

    first: float = 0.2
    cap: float = 5.0
    _attempt: int = field(default=0, init=False)

    @property
    def attempt(self) -> int:
        return self._attempt

    def next_wait(self) -> float:
        wait = min(self.cap, self.first * 2.0 ** min(self._attempt, 30))
        self._attempt += 1
        return random.uniform(wait / 2, wait)

    def reset(self) -> None:
        self._attempt = 0


def run_with_retries(
    run: Callable[[Callable[[], None]], None],
    stop: StopToken,
    name: str,
    on_wait: Callable[[CdcError], None] = lambda _: None,
) -> None:
    """Call `run` until it returns or `stop` is set; a RetryableError leads to a wait, before which `on_wait`
    gets it, and another call.

    `run` gets a function to call once it makes progress again, which resets the backoff. So does a RefusedError
    after the first progress: credentials that were good are being changed, and whoever changes them must not have
    to start every daemon again. Every other error passes through.
    """
    backoff = Backoff()
    worked = False

    def progressed() -> None:
        nonlocal worked
        worked = True
        backoff.reset()

    while not stop.is_set():
        try:
            run(progressed)
            return
        except (RetryableError, RefusedError) as error:
            if isinstance(error, RefusedError) and not worked:
                raise
            wait = backoff.next_wait()
            blocked = isinstance(error, BlockedError | RefusedError)
            tell = log.error if blocked else log.warning
            tell(
                "blocked until somebody acts" if blocked else "interrupted, trying again",
                service=name,
                error=str(error),
                attempt=backoff.attempt,
                wait_seconds=round(wait, 2),
            )
            on_wait(error)
            stop.wait(wait)


def at_most_every(seconds: float, call: Callable[[], None]) -> Callable[[], None]:
    """`call`, left out when it was called less than so many seconds ago."""
    last = -seconds

    def maybe() -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            call()

    return maybe
