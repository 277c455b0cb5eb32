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

    __slots__ = ("_seen_commit_lsn", "commit_lsn", "epoch", "open_commit_lsn", "seq")

    def __init__(self, epoch: int, commit_lsn: int) -> None:
        self.epoch = epoch
        self.commit_lsn = commit_lsn
        self.open_commit_lsn = 0
        self.seq = 0
        self._seen_commit_lsn = 0
        """Of this epoch, the newest whole transaction that was seen in the log, repeats among them."""

    @property
    def in_transaction(self) -> bool:
        return self.seq > 0

    def accept(
        self, epoch: int, commit_lsn: int, prev: int, seq: int, last: bool, prev_epoch: int | None = None
    ) -> Verdict:
        """Whether this record is the next link; moves on when it is.

        `prev_epoch` is the epoch before, on an `epoch` record: the only one that may raise the epoch, and the end of
        whatever transaction of the older epoch was left unfinished. A second one for the same epoch is void: of two
        that claim it, the log's order says who got it.
        Raises ChainGapError when records between the newest link and this one are missing.
        """
        if prev_epoch is not None:
            return self._begin_epoch(epoch, commit_lsn, prev, seq, prev_epoch)
        if epoch != self.epoch:
            if epoch < self.epoch:
                return Verdict.VOID
            raise ChainGapError(f"epoch {epoch} begins without its epoch record (we are in {self.epoch})", _REMEDY)
        if self.seq:
            return self._accept_inside(commit_lsn, seq, last)
        if commit_lsn <= self.commit_lsn:
            if last and commit_lsn > self._seen_commit_lsn:
                self._seen_commit_lsn = commit_lsn
            return Verdict.REPEAT
        if prev > self.commit_lsn or seq != 1:
            raise self._gap(commit_lsn, prev, seq)
        if last:
            self.commit_lsn = self._seen_commit_lsn = commit_lsn
        else:
            self.open_commit_lsn, self.seq = commit_lsn, 1
        return Verdict.NEXT

    def go_on(self, events: int) -> None:
        """So many more events of the open transaction, none of them its last, were found to be the next links."""
        self.seq += events

    def go_to(self, commit_lsn: int, open_commit_lsn: int, seq: int) -> None:
        """Records of this epoch up to here were found to be the next links: the newest whole transaction is that of
        `commit_lsn`, and of the one of `open_commit_lsn`, `seq` events have come (0: it is whole)."""
        if commit_lsn > self.commit_lsn:
            self.commit_lsn = self._seen_commit_lsn = commit_lsn
        self.open_commit_lsn, self.seq = open_commit_lsn, seq

    def _begin_epoch(self, epoch: int, commit_lsn: int, prev: int, seq: int, prev_epoch: int) -> Verdict:
        if epoch <= self.epoch:
            return Verdict.VOID
        if prev_epoch != self.epoch:
            raise ChainGapError(
                f"epoch {epoch} follows epoch {prev_epoch}, whose beginning is missing (we are in {self.epoch})",
                _REMEDY,
            )
        if prev > self.commit_lsn or seq != 1:
            raise self._gap(commit_lsn, prev, seq)
        if self.commit_lsn > prev and self.commit_lsn != self._seen_commit_lsn:
            raise ChainGapError(
                f"this follower is at {Lsn(self.commit_lsn)}, the log of epoch {prev_epoch} ends at {Lsn(prev)}: it "
                "may hold what no other node has",
                _REMEDY,
            )
        self.epoch, self.commit_lsn, self.seq, self._seen_commit_lsn = epoch, commit_lsn, 0, commit_lsn
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
            self.commit_lsn = self._seen_commit_lsn = commit_lsn
            self.seq = 0
        else:
            self.seq = seq
        return Verdict.NEXT

    def _gap(self, commit_lsn: int, prev: int, seq: int) -> ChainGapError:
        if prev > self.commit_lsn:
            missing = f"transactions after {Lsn(self.commit_lsn)} up to {Lsn(prev)} are missing in the log"
        else:
            missing = f"events 1 to {seq - 1} of transaction {Lsn(commit_lsn)} are missing in the log"
        return ChainGapError(missing, _REMEDY)
