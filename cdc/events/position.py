"""How far somebody is in the log."""

from __future__ import annotations

from dataclasses import dataclass

from cdc.protocol.lsn import Lsn


@dataclass(frozen=True, slots=True)
class Position:
    """The newest transaction that is complete, in the order of the log: epoch first, then commit LSN.

    `end_lsn` is the LSN after its commit record, `committed_at_us` the leader's commit time
    (microseconds since 1970), `next_offset` the Kafka offset to read next: a hint that is checked by
    the chain, never the truth. `leader` is the node that led when it committed.
    """

    epoch: int
    commit_lsn: Lsn
    end_lsn: Lsn
    committed_at_us: int
    next_offset: int
    leader: str = ""

    def __str__(self) -> str:
        return f"epoch {self.epoch} {self.commit_lsn}"
