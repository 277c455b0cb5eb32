"""How a daemon is, and since when: written by its loop, read by whoever asks over HTTP.

One thread writes; readers take what was written last, whole. So there is no lock.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from cdc.errors import BlockedError, CdcError, RefusedError

BUSY = "busy"
"""The state of one whose loop does not come round."""

SILENT_SECONDS = 20.0
"""A loop that has not come round for so long is not well: it does so several times a second."""


@dataclass(frozen=True, slots=True)
class Condition:
    """`ok` says whether the daemon does what it is there for; `problem` why it does not."""

    state: str
    ok: bool
    since: float
    problem: str | None = None


class Health:
    """What a daemon does now."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._turned_at = self._alive_at = clock()
        self._condition = Condition("starting", False, clock(), "has not begun to work yet")
        self.interruptions = 0
        """How often a session ended that must not have."""

    def works(self, state: str) -> None:
        """It does what it is there for."""
        self.turn()
        self._become(state, True, None)

    def stuck(self, problem: str) -> None:
        """The session goes on, and gets nowhere."""
        self._become("stuck", False, problem)

    def interrupted(self, error: CdcError) -> None:
        """A session ended, another one is tried."""
        self.interruptions += 1
        waits = isinstance(error, BlockedError | RefusedError)
        self._become("blocked" if waits else "interrupted", False, str(error))

    def turn(self) -> None:
        """The loop has come round."""
        self._turned_at = self._clock()

    def alive(self) -> None:
        """It has not come round, and waits for an answer that may rightly take hours."""
        self._alive_at = self._clock()

    def hangs(self) -> bool:
        """Whether the loop neither comes round nor waits for such an answer, so that only a new start helps."""
        return self.condition().state == BUSY and self._clock() - self._alive_at > SILENT_SECONDS

    def condition(self) -> Condition:
        """As of now."""
        found = self._condition
        silence = self._clock() - self._turned_at
        if found.ok and silence > SILENT_SECONDS:
            problem = f"busy with one thing for {silence:.0f} s: a long statement, a lock, or a server that is silent"
            return Condition(BUSY, False, self._turned_at, problem)
        return found

    def seconds(self) -> float:
        """How long it has been like that."""
        return self._clock() - self.condition().since

    def _become(self, state: str, ok: bool, problem: str | None) -> None:
        now = self._condition
        if (state, problem) != (now.state, now.problem):
            self._condition = Condition(state, ok, now.since if state == now.state else self._clock(), problem)
