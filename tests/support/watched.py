"""What every fault must leave true, looked at while it happens and after it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cdc.local.processes import wait_for
from tests.support.bank import Bank, BankWatch
from tests.support.pipeline import FOLLOWER, Pipeline, rows_of
from tests.support.slot_watch import SlotWatch

APPLY = f"apply {FOLLOWER}"
DAEMONS = ("capture", APPLY)
RECOVERY_SECONDS = 30.0
"""On a machine that does other things as well; a quiet one stays under ten, see what is printed."""
MEGABYTE = 2**20


@contextmanager
def watched_bank(
    pipeline: Pipeline, bootstrap_servers: str, *, pause_seconds: float = 0.003, seconds: float = 60.0
) -> Iterator[Bank]:
    """The bank works meanwhile. In the end every look at the follower was a state of the leader, the slot was never
    past the log, all rows are there once and the daemons run."""
    with BankWatch(pipeline.followers[FOLLOWER]) as watch, SlotWatch(pipeline, bootstrap_servers) as slot:
        with Bank(pipeline.leader, pause_seconds=pause_seconds) as bank:
            bank.transacts(10)
            yield bank
            bank.transacts(30)
        pipeline.catch_up(seconds=seconds)
        watch.check()
        slot.check()
    pipeline.assert_equal()
    pipeline.check_running(*DAEMONS)


def recovers(pipeline: Pipeline, what: str, seconds: float = RECOVERY_SECONDS) -> None:
    """By itself, and soon: from now until the follower holds what is committed now."""
    started = time.monotonic()
    pipeline.catch_up(seconds=seconds)
    print(f"{what}: recovered in {time.monotonic() - started:.1f} s")


def wait_until_apply_waits_for_a_lock(pipeline: Pipeline) -> None:
    """Asked in sessions of our own: a transaction sees pg_stat_activity as it was at its first look."""
    waits = "SELECT FROM pg_stat_activity WHERE application_name LIKE 'cdc apply%' AND wait_event_type = 'Lock'"
    asked = wait_for(lambda: len(rows_of(pipeline.followers[FOLLOWER], waits)) == 1, seconds=30)
    assert asked, pipeline.group.tail_of_logs()


def peak_memory(pid: int) -> int:
    """The most that was resident so far, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
