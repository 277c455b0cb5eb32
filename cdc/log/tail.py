"""Where the log ends: what capture may go on from, and what lag is measured against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cdc.errors import LogError
from cdc.log.parts import PartJoiner
from cdc.log.records import UNNUMBERED, check_link, ending, is_later_part, kind_of, leader_of, parse, unfit
from cdc.protocol.lsn import Lsn


@dataclass(frozen=True, slots=True)
class LogTail:
    """The newest complete transaction of the log, and the part of one that may follow it.

    `next_offset` is the offset after the final record of the complete transaction; `high_watermark`
    the offset that the next record gets. `partial_commit_lsn` and `partial_seq` name the newest record
    of a transaction whose `last` is not there (0 when there is none): everything of it up to that `seq`
    is in the log. `leader` is the node that led when it committed. `streamed_commit_lsn` is the newest complete
    transaction that the leader's WAL itself holds, which control records are not (0 when none is near the end).
    """

    epoch: int
    commit_lsn: Lsn
    end_lsn: Lsn
    committed_at_us: int
    next_offset: int
    high_watermark: int
    partial_commit_lsn: Lsn
    partial_seq: int
    leader: str = ""
    streamed_commit_lsn: int = 0


class TailScan:
    """Finds the LogTail among the records of one window of the log, fed from its start to its end."""

    def __init__(self, high_watermark: int) -> None:
        self._high_watermark = high_watermark
        self.begin()

    def begin(self, *, whole: bool = False) -> None:
        """Forget what was fed: a larger window follows, or the `whole` log."""
        self._whole = whole
        self._parts = PartJoiner()
        self._epoch = 0
        self._complete: tuple[int, int, int, int, str] | None = None
        self._next_offset = 0
        self._partial = (0, 0)
        self._streamed = 0
        self._led = False
        self._passed_over = 0

    def add(self, offset: int, value: bytes) -> None:
        """Raises LogError when the record is not ours."""
        try:
            event, meta = parse(value, offset)
            kind = kind_of(event, meta)
            if kind == "part":
                joined = self._join(meta, event)
                if joined is None:
                    return
                event, meta = parse(joined, offset)
                kind = kind_of(event, meta, joined=True)
            if kind not in UNNUMBERED:
                self._note(offset, event, meta)
        except (KeyError, TypeError, ValueError) as error:
            raise unfit(offset, error) from error
        except LogError as error:
            raise LogError(error.what, error.remedy, f"log offset {offset}") from error

    def tail(self) -> LogTail | None:
        """None when no transaction ends in the window."""
        if self._complete is None:
            return None
        epoch, commit_lsn, end_lsn, committed_at_us, leader = self._complete
        return LogTail(
            epoch,
            Lsn(commit_lsn),
            Lsn(end_lsn),
            committed_at_us,
            self._next_offset,
            self._high_watermark,
            Lsn(self._partial[0]),
            self._partial[1],
            leader,
            self._streamed,
        )

    def is_in_doubt(self) -> bool:
        """Whether the window begins with a claim of which only what comes before can tell whether it counts."""
        return self._passed_over > 0 and not self._outranks(self._passed_over)

    def may_yield_to(self, kind: str | None, epoch: int, commit_lsn: int) -> bool:
        """Whether such a record, somewhere before the window, may change what was found: the end of the window may be
        what a leader wrote that was none any more, or repeats of one that was taken for dead."""
        if kind in UNNUMBERED:
            return False
        if kind == "epoch":
            return not self._outranks(epoch)
        newest = self._complete[1] if self._complete else 0
        return (epoch, commit_lsn) > (self._epoch, newest)

    def _outranks(self, epoch: int) -> bool:
        return epoch < self._epoch or (epoch == self._epoch and self._led)

    def _join(self, meta: dict[str, Any], event: dict[str, Any]) -> bytes | None:
        if not self._parts.pending and is_later_part(meta):
            return None  # its beginning lies before the window
        return self._parts.add(meta, event["message"]["content"])

    def _note(self, offset: int, event: dict[str, Any], meta: dict[str, Any]) -> None:
        check_link(meta)
        epoch, commit_lsn, seq = meta["epoch"], meta["commit_lsn"], meta["seq"]
        if epoch < self._epoch:
            return
        if meta.get("kind") == "epoch" and not self._opens(epoch):
            if epoch > self._epoch:
                self._passed_over = epoch
            return
        if epoch > self._epoch:
            self._epoch, self._complete, self._partial, self._streamed, self._led = epoch, None, (0, 0), 0, False
        newest = self._complete[1] if self._complete else 0
        if commit_lsn <= newest:
            return  # a repeat
        if "last" in meta:
            self._complete = (epoch, commit_lsn, *ending(event, meta), leader_of(meta))
            self._next_offset = offset + 1
            if self._partial[0] <= commit_lsn:  # else this is a repeat, of what came before the window
                self._partial = (0, 0)
            if "kind" not in meta:
                self._streamed = commit_lsn
            # Two may have claimed an epoch; who writes on in it is the one that has it.
            self._led |= meta.get("kind") != "epoch"
        elif (commit_lsn, seq) > self._partial:
            self._partial = (commit_lsn, seq)

    def _opens(self, epoch: int) -> bool:
        """Whether an `epoch` record counts: the first one of its epoch does. What comes before the window is not known,
        so one at the very beginning of it counts in a larger window only."""
        return epoch > self._epoch and (self._epoch > 0 or self._whole)
