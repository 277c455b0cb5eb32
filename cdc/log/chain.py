"""The chain: which record of the log is the next link (`ops/reference/event-format.md`, rules of reading).

Correctness of apply rests on this, not on Kafka transactions, consumer groups or broker clocks.
"""

from __future__ import annotations

from enum import Enum

from cdc.errors import ChainGapError
from cdc.protocol.lsn import Lsn

_REMEDY = (
    "do not skip it: if the records were removed by retention or the topic was replaced, bootstrap this follower anew"
)


class Verdict(Enum):
    NEXT = "next"
    REPEAT = "repeat"
    VOID = "void"


class Chain:
    """Accepts numbered records one by one; holds the position of the newest complete transaction.

    Between transactions `seq` is 0. Not thread-safe; one reader, one chain.
    """

    __slots__ = ("commit_lsn", "epoch", "open_commit_lsn", "seq")

    def __init__(self, epoch: int, commit_lsn: int) -> None:
        self.epoch = epoch
        self.commit_lsn = commit_lsn
        self.open_commit_lsn = 0
        self.seq = 0

    @property
    def in_transaction(self) -> bool:
        return self.seq > 0

    def accept(self, epoch: int, commit_lsn: int, prev: int, seq: int, last: bool, new_epoch: bool = False) -> Verdict:
        """Whether this record is the next link; moves on when it is.

        `new_epoch` is true for an `epoch` record, the only one that may raise the epoch; it ends
        whatever transaction of the older epoch was left unfinished.
        Raises ChainGapError when records between the newest link and this one are missing.
        """
        if epoch != self.epoch:
            if epoch < self.epoch:
                return Verdict.VOID
            if not new_epoch:
                raise ChainGapError(f"epoch {epoch} begins without its epoch record (we are in {self.epoch})", _REMEDY)
            self.seq = 0
        elif self.seq:
            return self._accept_inside(commit_lsn, seq, last)
        elif commit_lsn <= self.commit_lsn:
            return Verdict.REPEAT
        if prev > self.commit_lsn or seq != 1:
            raise self._gap(commit_lsn, prev, seq)
        self.epoch = epoch
        if last:
            self.commit_lsn = commit_lsn
        else:
            self.open_commit_lsn, self.seq = commit_lsn, 1
        return Verdict.NEXT

    def _accept_inside(self, commit_lsn: int, seq: int, last: bool) -> Verdict:
        if commit_lsn < self.open_commit_lsn or (commit_lsn == self.open_commit_lsn and seq <= self.seq):
            return Verdict.REPEAT
        if commit_lsn != self.open_commit_lsn or seq != self.seq + 1:
            raise ChainGapError(
                f"records are missing in the log: transaction {Lsn(self.open_commit_lsn)} ends at event {self.seq}, "
                f"the next record is event {seq} of {Lsn(commit_lsn)}",
                _REMEDY,
            )
        if last:
            self.commit_lsn, self.seq = commit_lsn, 0
        else:
            self.seq = seq
        return Verdict.NEXT

    def _gap(self, commit_lsn: int, prev: int, seq: int) -> ChainGapError:
        if prev > self.commit_lsn:
            missing = f"transactions after {Lsn(self.commit_lsn)} up to {Lsn(prev)} are missing in the log"
        else:
            missing = f"events 1 to {seq - 1} of transaction {Lsn(commit_lsn)} are missing in the log"
        return ChainGapError(missing, _REMEDY)
