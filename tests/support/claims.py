"""Records that say who leads, and records of a leader that say nothing else, as they lie in the log."""

from __future__ import annotations

from cdc.log.envelope import Envelope, Finisher, finished
from tests.support.topic import Raw


def opened(epoch: int, commit_lsn: int, prev: int) -> Envelope:
    envelope = Envelope("test", "", "0", epoch)
    envelope.begin(0, commit_lsn, prev, 0, 0)
    return envelope


def claim(leader: str, epoch: int, commit_lsn: int, prev: int) -> Raw:
    why = {"promotion": f"of {leader}"}
    return finished(opened(epoch, commit_lsn, prev).epoch(leader, "1", 1, "slot", epoch - 1, why), commit_lsn + 1)


def marks(leader: str, epoch: int, first: int, count: int) -> list[Raw]:
    """At every tenth LSN."""
    finish = Finisher(leader)
    return [
        finish(opened(epoch, commit_lsn, commit_lsn - 10).mark(1), commit_lsn + 1)
        for commit_lsn in range(first, first + 10 * count, 10)
    ]
