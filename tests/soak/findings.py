"""What a run has seen so far. Written by many threads."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that must not be. `at` is seconds since the run began, `moment` the wall clock's time then."""

    at: float
    moment: str
    what: str


class Findings:
    """Violations, and what the report counts."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.violations: list[Violation] = []
        self.wrong = threading.Event()
        """Set with the first violation."""
        self.faults: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()
        self.recovery_seconds: dict[str, list[float]] = {}
        self.notes: list[str] = []
        self.transactions = 0
        self.rests = 0
        self.rows_compared = 0
        self.most_retained_bytes = 0
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Seconds count from here."""
        self.started = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def violation(self, what: str) -> None:
        moment = time.strftime("%H:%M:%S", time.gmtime()) + "Z"
        with self._lock:
            self.violations.append(Violation(round(self.seconds, 1), moment, what))
        self.wrong.set()

    def recovered(self, fault: str, seconds: float) -> None:
        with self._lock:
            self.recovery_seconds.setdefault(fault, []).append(seconds)

    def count(self, counter: Counter[str], name: str) -> None:
        with self._lock:
            counter[name] += 1

    def note(self, text: str) -> None:
        with self._lock:
            self.notes.append(f"{self.seconds:.1f} s: {text}")
