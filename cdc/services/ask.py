"""Many asked at once, with one deadline: whoever is silent keeps nobody else from being heard."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from cdc.errors import CdcError, RetryableError

Answer = TypeVar("Answer")


def ask_all(questions: Mapping[str, Callable[[], Answer]], seconds: float) -> dict[str, Answer | CdcError]:
    """Whoever has not answered after `seconds`, or cannot, has an error instead that says so."""
    answers: dict[str, Answer | CdcError] = {}

    def ask(name: str, question: Callable[[], Answer]) -> None:
        try:
            answers[name] = question()
        except CdcError as error:
            answers[name] = error

    threads = [threading.Thread(target=ask, args=item, daemon=True) for item in questions.items()]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return {name: answers[name] if name in answers else _silence(name, seconds) for name in questions}


def _silence(name: str, seconds: float) -> CdcError:
    return RetryableError(f"no answer in {seconds:.0f} s", "see that it runs and can be reached from here", name)
