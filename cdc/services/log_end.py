"""Where the log ends, and who began to lead where, asked again and again."""

from __future__ import annotations

from cdc.log.tail import LogTail
from cdc.promotion_ports import EpochStart, PromotionLog


class LogEnd:
    """Looked for deep once: who does not lead any more may have written `depth_bytes` after the record that says so.
    From then on only what came after it can say otherwise."""

    def __init__(self, depth_bytes: int) -> None:
        self._depth_bytes = depth_bytes
        self._known: LogTail | None = None
        self._first: LogTail | None = None

    def read(self, log: PromotionLog) -> LogTail | None:
        """None when nothing was ever published."""
        known = self._known
        tail = log.read_tail(back_to=known.next_offset - 1) if known else log.read_tail(depth_bytes=self._depth_bytes)
        if tail is not None and (known is None or tail.epoch >= known.epoch):
            self._known = tail
            self._first = self._first or tail
        return self._known

    def find_epoch(self, log: PromotionLog, epoch: int) -> EpochStart | None:
        """Where `epoch` began. One that had not begun when the log's end was first looked for began after that."""
        first = self._first
        not_before = first.next_offset if first is not None and epoch > first.epoch else None
        return log.find_epoch(epoch, self._depth_bytes, not_before)
