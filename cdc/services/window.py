"""HOT PATH: what the applier has accepted of the log, and not applied yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from cdc.events.net_effect import Batch, Change
from cdc.events.position import Position
from cdc.events.table import TableSchema
from cdc.log.records import Truncation
from cdc.services.batches import Piece

Item: TypeAlias = Change | Batch | Truncation


@dataclass
class Window:
    """Accepted changes that are not in the follower yet, and where the last complete transaction ends in them."""

    items: list[Item] = field(default_factory=list)
    changes: int = 0
    size: int = 0
    position: Position | None = None
    schemas: list[TableSchema] = field(default_factory=list)
    """That the follower has not stored."""
    _complete: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Items, changes, size and schemas up to that place."""

    def add(self, item: Item) -> None:
        self.items.append(item)
        self.changes += 1

    def add_all(self, items: Sequence[Item], changes: int, size: int) -> None:
        self.items += items
        self.changes += changes
        self.size += size

    def add_batch(self, piece: Piece) -> None:
        self.add_all([piece.batch], piece.batch.number, piece.size)

    def close_transaction(self, position: Position) -> None:
        self._complete = (len(self.items), self.changes, self.size, len(self.schemas))
        self.position = position

    def take_complete(self) -> tuple[list[Item], int, int, list[TableSchema]]:
        """What the complete transactions hold, how many changes and bytes, and the schemas that were described before
        their end; what is left is of an unfinished one, and of those after it."""
        items, changes, size, schemas = self._complete
        taken, described = self.items[:items], self.schemas[:schemas]
        del self.items[:items], self.schemas[:schemas]
        self.changes -= changes
        self.size -= size
        self._complete, self.position = (0, 0, 0, 0), None
        return taken, changes, size, described

    def drop_unfinished(self) -> None:
        """Forget the changes of a transaction that will never be complete; a schema is described once a session."""
        items, self.changes, self.size, _ = self._complete
        del self.items[items:]

    def take_all(self) -> tuple[list[Item], int]:
        """What an unfinished transaction holds, and how many changes."""
        taken, changes = self.items, self.changes
        self.items, self.changes, self.size = [], 0, 0
        return taken, changes
