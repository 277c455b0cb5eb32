"""HOT PATH: what the applier has accepted of the log, and not applied yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from operator import methodcaller
from typing import Any, TypeAlias

from cdc.errors import LogError
from cdc.events.net_effect import Alike, Change, Line
from cdc.events.position import Position
from cdc.log.compiled import RunLines
from cdc.log.records import Truncation
from cdc.log.runs import Run
from cdc.ports import LogRecord, TablePlan

_value_of = methodcaller("value")

Item: TypeAlias = Change | Alike | Truncation


@dataclass
class Window:
    """Accepted changes that are not in the follower yet, and where the last complete transaction ends in them."""

    items: list[Item] = field(default_factory=list)
    changes: int = 0
    size: int = 0
    position: Position | None = None
    _complete: tuple[int, int, int] = (0, 0, 0)
    """Items, changes and size up to that place."""

    def add(self, item: Item, changes: int = 1) -> None:
        self.items.append(item)
        self.changes += changes

    def add_run(self, run: Run, lines_of_run: RunLines | None, records: Sequence[LogRecord], first: int) -> int:
        """How many of the first `records` go on with the run, numbered from `first` on, of many only some; these are
        added."""
        if lines_of_run is None:
            changes, size = _changes_of(run, records, first)
            self.items += changes
            taken = len(changes)
        else:
            lines: list[Line] = []
            keys: list[Any] = []
            size = lines_of_run.read(map(_value_of, records), first, lines, keys)
            taken = len(lines)
            if taken:
                own = partial(_all_changes_of, run, records[:taken], first)
                self.items.append(Alike(run.op, run.fingerprint, lines, keys, own))
        self.changes += taken
        self.size += size
        return taken

    def close_transaction(self, position: Position) -> None:
        self._complete, self.position = (len(self.items), self.changes, self.size), position

    def take_complete(self) -> tuple[list[Item], int, int]:
        """What the complete transactions hold, how many changes and bytes; what is left is of an unfinished one."""
        items, changes, size = self._complete
        taken = self.items[:items]
        del self.items[:items]
        self.changes -= changes
        self.size -= size
        self._complete, self.position = (0, 0, 0), None
        return taken, changes, size

    def drop_unfinished(self) -> None:
        """Forget the changes of a transaction that will never be complete."""
        items, self.changes, self.size = self._complete
        del self.items[items:]

    def take_all(self) -> tuple[list[Item], int]:
        """What an unfinished transaction holds, and how many changes."""
        taken, changes = self.items, self.changes
        self.items, self.changes, self.size = [], 0, 0
        return taken, changes


def lines_of(run: Run, plan: TablePlan) -> RunLines | None:
    """What reads the run as lines, where lines of all columns are what the target can use."""
    as_sets = run.op == "c" or (plan.collapsible and not plan.moves_values)
    if plan.one_by_one or not as_sets or plan.columns != run.names:
        return None
    return run.lines(() if run.op == "c" else plan.key)


def _changes_of(run: Run, records: Sequence[LogRecord], first: int) -> tuple[list[Change], int]:
    """The changes that go on with the run, of many only some, and their size."""
    rows, size = run.rows(map(_value_of, records), first)
    op, fingerprint, commit_lsn = run.op, run.fingerprint, run.commit_lsn
    changes: list[Change] = [
        (op, fingerprint, None, row, False, commit_lsn, seq, record.offset() or 0)
        for seq, row, record in zip(count(first), rows, records, strict=False)
    ]
    return changes, size


def _all_changes_of(run: Run, records: Sequence[LogRecord], first: int) -> list[Change]:
    """The changes of records that were all found to be of the run."""
    changes: list[Change] = []
    while len(changes) < len(records):
        some, _ = _changes_of(run, records[len(changes) :], first + len(changes))
        if not some:
            raise LogError("lines were read of a record that holds no row", "report this as an error of cdc")
        changes += some
    return changes
