"""A leader that was failed over and comes back does not know it: whoever reads the log beside it closes it for writes.

What it takes until then is its tail, which `cdc rejoin` saves. So an applier runs beside every node, the leader's too.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import structlog

from cdc.log.tail import LogTail
from cdc.promotion_ports import STALE, PromotionNode

log = structlog.get_logger(__name__)

_GRACE_SECONDS = 2.0


def close_stale_leader(
    connect: Callable[[], PromotionNode], read_tail: Callable[[], LogTail | None], publication: str
) -> None:
    """Close the node for writes when the log is in a newer epoch than the one that it leads. Once is enough."""
    tail = read_tail()
    if tail is None:
        return
    with closing(connect()) as node:
        state = node.state()
        if state.identity is None or state.identity.epoch >= tail.epoch or state.fence is not None:
            return
        node.fence(STALE, node.published(publication), _GRACE_SECONDS)
        log.error(
            "this node led before and was open for writes: closed",
            led_epoch=state.identity.epoch, epoch=tail.epoch, leader=tail.leader,
            remedy=f"cdc rejoin --node {node.name}",
        )  # fmt: skip
