"""How far somebody is in the log."""

from __future__ import annotations

from typing import NamedTuple

from cdc.protocol.lsn import Lsn


class TransactionName(NamedTuple):
    """Names one transaction of the log; written `EPOCH/LSN`, for instance `1/0/16E9038`."""

    epoch: int
    commit_lsn: Lsn

    @classmethod
    def parse(cls, text: str) -> TransactionName:
        """Raises ValueError when it is not of that form."""
        epoch, _, lsn = text.partition("/")
        return cls(int(epoch), Lsn.parse(lsn))

    def __str__(self) -> str:
        return f"{self.epoch}/{self.commit_lsn}"


class Token(NamedTuple):
    """All that the leader of `epoch` had committed when its WAL ended at `lsn`; written `EPOCH/LSN`. Unlike the name of
    a transaction it may lie between two of them."""

    epoch: int
    lsn: Lsn

    @classmethod
    def parse(cls, text: str) -> Token:
        """Raises ValueError when it is not of that form."""
        return cls(*TransactionName.parse(text))

    def __str__(self) -> str:
        return f"{self.epoch}/{self.lsn}"


class Position(NamedTuple):
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

    @property
    def name(self) -> TransactionName:
        return TransactionName(self.epoch, self.commit_lsn)
