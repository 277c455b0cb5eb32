"""Where the log ends, asked again and again."""

from __future__ import annotations

from cdc.log.tail import LogTail
from cdc.promotion_ports import PromotionLog


class LogEnd:
    """Looked for deep once: who does not lead any more may have written `depth_bytes` after the record that says so.
    From then on only what came after it can say otherwise."""

    def __init__(self, depth_bytes: int) -> None:
        self._depth_bytes = depth_bytes
        self._known: LogTail | None = None

    def read(self, log: PromotionLog) -> LogTail | None:
        """None when nothing was ever published."""
        known = self._known
        tail = log.read_tail(back_to=known.next_offset - 1) if known else log.read_tail(depth_bytes=self._depth_bytes)
        if tail is not None and (known is None or tail.epoch >= known.epoch):
            self._known = tail
        return self._known
