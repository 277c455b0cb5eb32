"""Retries: only what is expected to pass, with growing waits, until told to stop."""

import pytest

from cdc.errors import CdcError, CheckError, RefusedError, RetryableError, TerminalError
from cdc.retry import Backoff, run_with_retries
from cdc.stop import StopToken


class NoWait(StopToken):
    """Remembers the waits instead of waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []

    def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        return self.is_set()


def test_waits_grow_to_a_cap_and_start_over_after_progress():
    backoff = Backoff(first=1.0, cap=4.0)
    waits = [backoff.next_wait() for _ in range(5)]
    assert all(top / 2 <= wait <= top for wait, top in zip(waits, [1, 2, 4, 4, 4], strict=True))
    backoff.reset()
    assert backoff.next_wait() <= 1.0


def test_a_retryable_error_leads_to_another_try():
    stop, outcomes = NoWait(), iter([RetryableError("gone"), RetryableError("gone"), None])

    def run(progress) -> None:
        outcome = next(outcomes)
        if outcome:
            raise outcome

    run_with_retries(run, stop, "test")
    assert len(stop.waits) == 2


@pytest.mark.parametrize("kind", [TerminalError, CheckError])
@pytest.mark.parametrize("worked", [False, True])
def test_other_errors_pass(kind: type[CdcError], worked: bool):
    def run(progress) -> None:
        if worked:
            progress()
        raise kind("no")

    with pytest.raises(kind):
        run_with_retries(run, NoWait(), "test")


def test_who_was_never_let_in_gives_up():
    def run(progress) -> None:
        raise RefusedError("wrong password")

    with pytest.raises(RefusedError):
        run_with_retries(run, NoWait(), "test")


def test_who_was_let_in_before_waits_to_be_let_in_again():
    stop, outcomes = NoWait(), iter([RetryableError("gone"), RefusedError("no"), RefusedError("no"), None])

    def run(progress) -> None:
        if not stop.waits:
            progress()
        outcome = next(outcomes)
        if outcome:
            raise outcome

    run_with_retries(run, stop, "test")
    assert len(stop.waits) == 3


def test_a_stop_ends_the_retries():
    stop = NoWait()

    def run(progress) -> None:
        stop.set()
        raise RetryableError("gone")

    run_with_retries(run, stop, "test")
    assert len(stop.waits) == 1
