"""What a promotion needs of the world, beside the other ports; `connectors/` implements it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from cdc.capture_ports import CandidateTable, LeaderFacts, LeaderIdentity
from cdc.events.position import Position
from cdc.events.table import TableId
from cdc.log.tail import LogTail
from cdc.protocol.lsn import Lsn

STALE = "stale"
"""Stands for the promotion in the fence of a node that is closed because it led before, and must rejoin."""


@dataclass(frozen=True, slots=True)
class Fence:
    """Which promotion closed a leader for writes, and after which LSN it wrote nothing (None: not all is closed)."""

    promotion: str
    fence_lsn: Lsn | None


@dataclass(frozen=True, slots=True)
class PromotionRecord:
    """A promotion that a node was chosen by. `report` grows with the steps; times are seconds since 1970."""

    promotion: str
    epoch: int
    old_leader: str
    mode: str
    started_by: str
    started_at: float
    outcome: str | None
    report: dict[str, Any]


@dataclass(frozen=True, slots=True)
class NodeState:
    """What a node says of itself. `slot_active`: somebody streams from the group's own slot. `promotion` is the newest
    one that chose it; a node is diverged since a transaction was left out of it (`cdc skip`)."""

    identity: LeaderIdentity | None
    position: Position | None
    applier_runs: bool
    slot_active: bool
    fence: Fence | None
    promotion: PromotionRecord | None
    diverged_since: str | None = None


@dataclass(frozen=True, slots=True)
class EpochStart:
    """Where an epoch begins in the log: the offset of its record, who leads it, and by which promotion."""

    offset: int
    leader: str
    promotion: str | None


class PromotionLog(Protocol):
    """The log as a promotion reads it."""

    def read_tail(self, *, depth_bytes: int = 0, back_to: int | None = None, end: int | None = None) -> LogTail | None:
        """The newest complete transaction, of those before the offset `end` if there is one. Looks at as many bytes at
        least, and at everything from the offset `back_to` on."""
        ...

    def find_epoch(self, epoch: int, depth_bytes: int, not_before: int | None = None) -> EpochStart | None:
        """Where `epoch` begins: of several records that claim it the first counts. A leader that does not know of it
        yet may have written `depth_bytes` after that. None when it is not in the log.

        It does not begin before the offset `not_before`, if that is known.
        """
        ...


class PromotionNode(Protocol):
    """One node, through one connection that holds the promotion's lock. Every step may be repeated."""

    name: str

    def take_lock(self, who: str) -> None:
        """Raises FencedError when another promotion works on this node; says whose."""
        ...

    def state(self) -> NodeState: ...

    def leader_facts(self) -> LeaderFacts:
        """What `cdc init` asks of a leader."""
        ...

    def candidates(self, patterns: Sequence[str]) -> Sequence[CandidateTable]:
        """The tables that would be published."""
        ...

    def foreign_slot(self, name: str) -> str | None:
        """Which other database of the same server has a slot of this name."""
        ...

    def position(self) -> Position:
        """Raises CheckError when there is none."""
        ...

    def wal_lsn(self) -> Lsn: ...

    # the record of the promotion

    def begin(self, record: PromotionRecord) -> None: ...

    def note(self, promotion: str, facts: dict[str, Any]) -> None:
        """Merged into the report."""
        ...

    def end(self, promotion: str, outcome: str) -> None: ...

    # the old leader

    def fence(self, promotion: str, tables: Sequence[TableId], grace_seconds: float) -> Lsn:
        """Close every table for writes; the LSN after the last one. Open transactions get `grace_seconds`, then they
        are ended. Raises CheckError when something keeps a table open."""
        ...

    def unfence(self, promotion: str) -> None: ...

    def published(self, publication: str) -> Sequence[TableId]: ...

    def sequences(self) -> dict[TableId, int]: ...

    def release_slot(self, name: str) -> None:
        """End whoever streams from it."""
        ...

    def drop_slot(self, name: str) -> None:
        """Not an error when there is none."""
        ...

    def follow(self, position: Position, slot: str) -> int:
        """Be a follower from `position` on: no identity, slot or publication of a leader is left."""
        ...

    # the new leader

    def set_sequences(self, values: dict[TableId, int]) -> int:
        """To exactly these values, or to what their columns hold if that is more; how many were set."""
        ...

    def advance_sequences(self, margin: int) -> int:
        """Past all that is known of each by `margin` values; how many were set."""
        ...

    def publish(self, publication: str, patterns: Sequence[str]) -> int:
        """The publication with every table that matches; how many these are."""
        ...

    def make_slot(self, name: str) -> Lsn:
        """A new slot, instead of one that is there; where it begins. Only before the node is open for writes."""
        ...

    def lead(self, identity: LeaderIdentity, promotion: str) -> None:
        """Open for writes and become the leader, in one transaction. Raises FencedError when the node's position is
        not in the epoch of `identity`."""
        ...

    def takes_writes(self) -> bool:
        """Whether a new session may write without saying so first."""
        ...

    def close(self) -> None: ...
