"""What the first copy of a follower, and the new copy of some of its tables, need of the two databases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from cdc.events.position import Position, TransactionName
from cdc.events.table import TableId
from cdc.ports import Target
from cdc.protocol.lsn import Lsn


class SchemaChoice(Enum):
    """Where the follower's schema comes from: the leader's is copied; it is there, and is compared with the leader's;
    it is there, and whether the rows fit is found out by copying them."""

    COPY = "copy"
    VERIFY = "verify"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class TableToCopy:
    """A published table and its size on the leader."""

    table: TableId
    bytes: int


@dataclass(frozen=True, slots=True)
class Part:
    """Some pages of a table, from `first_page` to before `end_page` (None: all that follow); `bytes` is its share of
    the table's size."""

    table: TableId
    number: int
    first_page: int
    end_page: int | None
    bytes: int

    @property
    def whole(self) -> bool:
        return self.first_page == 0 and self.end_page is None


@dataclass(frozen=True, slots=True)
class Build:
    """One thing of the schema that comes after the rows: an index, a constraint, a trigger."""

    number: int
    kind: str
    name: str
    statement: str


class CopyWorker(Protocol):
    """Two connections that see the one snapshot and write the follower. For one thread; `close` it."""

    def copy(self, part: Part, progress: Callable[[int, int], None]) -> int:
        """The part's rows, which are committed then together with a note of it. Not copied again when that note is
        there. `progress` gets the rows and bytes of this part so far; what it raises ends the copy.

        Raises RetryableError when another worker can try again, FencedError when another copy has begun.
        """
        ...

    def build(self, build: Build) -> None:
        """Like `copy`, for what comes after the rows."""
        ...

    def close(self) -> None: ...


class Source(Protocol):
    """Where parts come from: one snapshot of the leader, and workers that see it."""

    def request_descriptions(self) -> None:
        """Have capture describe every relation anew, before the snapshot."""
        ...

    def open_snapshot(self) -> Lsn:
        """The consistent point: the snapshot holds every transaction whose commit LSN is before it, and no other.

        It lives as long as this object's connection to the leader.
        """
        ...

    def tables(self) -> Sequence[TableToCopy]: ...

    def parts(self) -> Sequence[Part]:
        """All parts of all tables, the largest first."""
        ...

    def worker(self) -> CopyWorker:
        """Connects. May be called from any thread."""
        ...

    def check_snapshot(self) -> None:
        """Raises RetryableError when the snapshot is gone: nobody can go on then."""
        ...


class InitialCopy(Source, Protocol):
    """Both ends of the first copy of a follower. Steps in the order in which they are called."""

    def begin(self) -> bool:
        """Check both ends and mark the follower as being copied. False when it was copied completely before.

        Clears what an unfinished copy left. Raises CheckError when the follower holds what this project did not put
        there, or is the leader itself.
        """
        ...

    def prepare_schema(self) -> None:
        """See to it that the follower has a place for all rows. Raises CheckError when it has none."""
        ...

    def builds(self) -> Sequence[Sequence[Build]]:
        """What comes after the rows, in order; those of one group may be made at the same time."""
        ...

    def release_snapshot(self) -> None:
        """All rows are copied: the leader is not needed any more."""
        ...

    def finish(self, position: Position) -> None:
        """Store the position and make the follower read-only, in one transaction."""
        ...

    def close(self) -> None: ...


class Recopy(Source, Protocol):
    """Both ends of a new copy of some tables of a follower, which stands aside until it takes their place."""

    def begin(self) -> None:
        """Raises CheckError when the tables are not published, or the node is no follower."""
        ...

    def target(self) -> Target:
        """Where the log's changes of these tables go once their rows are copied. The snapshot is over."""
        ...

    def position(self) -> Position:
        """The follower's own. Raises CheckError when it leads by now."""
        ...

    def take_appliers_place(self) -> bool:
        """False while an applier runs; after True none can start."""
        ...

    def applier_waits(self) -> AbstractContextManager[Position]:
        """Inside, the position is this one, and only we write these tables. Readers go on. Commits at the end."""
        ...

    def exchange(self, at: Position, ahead: TransactionName | None, rows: int) -> None:
        """Inside `applier_waits`: the copies take the place of the rows. `ahead` is the place in the log that they are
        as of, where that is later than the position: the applier leaves out their changes up to there."""
        ...

    def finish(self) -> None:
        """The copies are dropped."""
        ...

    def close(self) -> None: ...
