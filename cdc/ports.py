"""What the services need of the world; `connectors/` implements it, `cdc/cli/wiring` joins them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from cdc.events.net_effect import Change, NetEffect
from cdc.events.position import Position, TransactionName
from cdc.events.table import TableId, TableSchema
from cdc.log.records import Truncation
from cdc.log.tail import LogTail
from cdc.protocol.lsn import Lsn

FOLLOWER_SESSION = "SET default_transaction_read_only = off; SET session_replication_role = replica"
"""What an operator's session on a follower begins with that changes tables there. In that role the leader's event
triggers, which came with its schema, do not fire."""


class LogRecord(Protocol):
    """One record as the Kafka client hands it out."""

    def value(self) -> bytes | None: ...

    def offset(self) -> int | None: ...


class LogReader(Protocol):
    """Reads the log in order from an offset that is set by `seek`; never jumps by itself."""

    def seek(self, offset: int) -> None: ...

    def watermarks(self) -> tuple[int, int]:
        """(low, high): offset of the first record, and the offset that the next record gets."""
        ...

    def known_end(self) -> int:
        """The offset that the next record gets, as the broker last said; negative while not known. Asks nobody."""
        ...

    def read_tail(self, *, depth_bytes: int = 0) -> LogTail | None:
        """The newest complete transaction among at least the last `depth_bytes` of values; None when nothing was ever
        written. `seek` again afterwards."""
        ...

    def close(self) -> None: ...

    def consume(self, limit: int, timeout: float) -> Sequence[LogRecord]:
        """Up to `limit` records, as soon as there is one; empty after `timeout` seconds. Raises LogError
        when the offset is out of range, RetryableError when the brokers cannot be reached."""
        ...


@dataclass(frozen=True)
class TablePlan:
    """How the rows of one shape of a table are placed on this follower.

    `columns` are those of the events that can be written here; `key` finds a row, empty when only the
    whole row can.
    """

    schema: TableSchema
    columns: tuple[str, ...]
    key: tuple[str, ...]
    collapsible: bool
    """The key is all that finds a row, and the follower has no columns of its own to keep."""
    moves_values: bool
    """Another unique index could see two rows exchange a value: a set of updates may fail where replay does not."""
    one_by_one: bool
    """Triggers fire for the applier too, so that each change counts; or there is no column that COPY could fill."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What an operator decided about a follower, or allowed in the configuration, and when it was done."""

    action: str
    reason: str
    by: str
    """user@host of the machine where the command ran."""
    position: TransactionName
    tables: tuple[str, ...]
    events: int
    file: str | None = None
    at: str = ""
    role: str = ""


class Target(Protocol):
    """The follower. One transaction at a time; nothing is visible before `commit`."""

    def open(self) -> Position | None:
        """Connect, take the applier's lock, read the position. None when this node leads: it takes no changes.

        Raises FencedError when another applier holds the lock, CheckError when the follower was never
        bootstrapped, RetryableError when it cannot be reached.
        """
        ...

    def copied_ahead(self) -> Mapping[TableId, TransactionName]:
        """Tables whose rows are those of a later place in the log than the position, and that place."""
        ...

    def plan(self, schema: TableSchema, not_stored: Sequence[TableSchema]) -> TablePlan:
        """Raises BlockedError with the DDL to run when the follower cannot take this shape. `not_stored` are shapes of
        any table that the log has described by then and that no transaction here has stored."""
        ...

    def known_schema(self, fingerprint: str) -> TableSchema | None:
        """A shape that an earlier transaction of this follower stored."""
        ...

    def wait_for_locks(self) -> None:
        """In the transaction that is open now for as long as it takes; else BlockedError is raised after some
        seconds."""
        ...

    def apply_sets(
        self, effects: Sequence[tuple[TablePlan, NetEffect]], meanwhile: Callable[[], bool]
    ) -> TablePlan | None:
        """All of them, or none, and then the first where a row was missing or there already. `meanwhile` may be
        called, until it returns False, while the follower works; it must not use this target."""
        ...

    def apply_in_order(self, steps: Sequence[tuple[TablePlan, Change]]) -> None:
        """One by one. Raises DivergenceError that names table, key columns and position."""
        ...

    def truncate(self, statement: Truncation) -> None: ...

    def store_epoch_ends(self, ends: Sequence[Position]) -> None:
        """Keep the newest transactions of epochs that are over, for who asks about a write from before."""
        ...

    def store_sequences(self, values: Mapping[TableId, int]) -> None:
        """Keep the leader's last values of sequences, for the day when this follower leads."""
        ...

    def commit(self, position: Position, schemas: Sequence[TableSchema]) -> None:
        """Store position and new shapes in the same transaction as the rows, and commit.

        Raises FencedError when the stored position is not the one this applier left there.
        """
        ...

    def note_blocked(self, problem: str) -> None:
        """Undo what is open, and store why nothing goes on; gone with the next commit. Never fails."""
        ...

    def rollback(self) -> None: ...

    def interrupt(self) -> None:
        """From another thread: end the statement that runs, which then raises RetryableError."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class LeaderProgress:
    """How far the leader is, by its own clock (`now_us`); `retained_bytes` of WAL are kept by the slot."""

    insert_lsn: Lsn
    now_us: int
    confirmed_flush_lsn: Lsn
    slot_active: bool
    retained_bytes: int
    wal_status: str
    safe_wal_bytes: int | None = None
    """How much may still be written before the slot may be lost; None without a limit."""
    wal_keep_bytes: int | None = None
    """max_slot_wal_keep_size; None without a limit."""
    received_lsn: Lsn | None = None
    """How far capture has read, as it last told the server; None when our role may not see it."""
    epoch: int = 0
    """That this node leads, as it says itself."""


@dataclass(frozen=True, slots=True)
class Leadership:
    """What a node has of leading: the `epoch` that it leads, or led and did not give up; whether it is `closed` for
    writes since; and, in words, the `promotion` that chose it and has not ended."""

    epoch: int | None
    closed: bool
    promotion: str | None


@dataclass(frozen=True, slots=True)
class FollowerFacts:
    """What a node says of itself as a follower. Times as PostgreSQL prints them; None where there is nothing."""

    leadership: Leadership
    position: str
    applied_at: str
    applier: str | None
    """The session that holds the applier's lock."""
    diverged_since: str | None
    blocked_since: str | None
    blocked: str | None
    decisions: tuple[Decision, ...]


@dataclass(frozen=True, slots=True)
class NodeProgress:
    """How far a node is: as a leader where it has the group's slot, as a follower where it has a position."""

    leader: LeaderProgress | None
    position: Position | None
    facts: FollowerFacts


@dataclass(frozen=True, slots=True)
class LeaderState:
    """What the leading node says of itself."""

    leadership: Leadership
    wal_lsn: str
    slot: str
    capture: str | None
    """The session that reads the slot."""
