"""HOT PATH: many changes of the log at once, by the compiled reader where there is one.

It takes changes of tables whose rows the follower can take as lines of COPY in any order, and which are the next links
of the chain; whatever is not that is read by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from cdc.events.net_effect import Batch, Change, Lines
from cdc.events.position import Position
from cdc.events.table import TableId
from cdc.log.chain import Chain
from cdc.log.compiled import ChangeReader
from cdc.log.forms import has_usual_form, head_of
from cdc.log.records import parse
from cdc.ports import LogRecord, TablePlan
from cdc.protocol.lsn import Lsn


@dataclass(frozen=True, slots=True)
class Piece:
    """Changes that were read together, and the size of their records."""

    batch: Batch
    size: int


@dataclass(frozen=True, slots=True)
class Gathered:
    """What one call has read: whole transactions up to a position, the first of which may have begun earlier, and the
    beginning of one more."""

    records: int
    whole: Piece | None
    position: Position | None
    begun: Piece | None


class BatchReader:
    """One session's; it needs the compiled module."""

    def __init__(self) -> None:
        self._reader = ChangeReader()
        self._judged: dict[tuple[TableId, str], tuple[bytes, str, bool]] = {}
        """By table and operation: the head and the shape that were looked at last, and whether they are known."""

    def learn(self, value: bytes, event: dict[str, Any], plan: TablePlan, names: tuple[str, ...]) -> bool:
        """From a change that was accepted, how those of its table and operation look; `names` are the columns. Whether
        it is known now."""
        op, fingerprint, head = event["op"], event["cdc"]["rel"], head_of(value)
        what = (plan.schema.table, op)
        judged = self._judged.get(what)
        if judged is not None and judged[:2] == (head, fingerprint):
            return judged[2]
        if judged is not None:
            self._reader.forget(judged[0])
        row = tuple(event["before"] if op == "d" else event["after"])
        key = plan.key if plan.collapsible else ()
        known = _goes_as_lines(plan, op, names) and set(key) <= set(row) and has_usual_form(value, event)
        if known:
            self._reader.learn(head, op, fingerprint, row, key)
        self._judged[what] = head, fingerprint, known
        return known

    def forget(self, fingerprint: str) -> None:
        """The next changes of that shape are looked at one by one, until they are learned anew."""
        for what in [what for what, (_, shape, _) in self._judged.items() if shape == fingerprint]:
            head, *_ = self._judged.pop(what)
            self._reader.forget(head)

    def read(self, records: Sequence[LogRecord], at: int, chain: Chain, leader: str) -> Gathered | None:
        """What can be taken from `records[at]` on; the chain has moved over it. None when that is nothing.

        `leader` is what the final record of each transaction must say.
        """
        reader = self._reader
        taken = reader.read(records, at, chain.epoch, chain.commit_lsn, chain.open_commit_lsn, chain.seq, leader)
        if not taken:
            return None
        chain.go_to(reader.commit_lsn, reader.open_commit_lsn, reader.seq)
        end = at + reader.complete
        whole, position = None, None
        if reader.complete:
            whole = Piece(self._batch(True, records[at:end]), reader.complete_size)
            offset = records[end - 1].offset() or 0
            commit_lsn, end_lsn = Lsn(reader.commit_lsn), Lsn(reader.end_lsn)
            position = Position(chain.epoch, commit_lsn, end_lsn, reader.committed_at_us, offset + 1, leader)
        rest = self._batch(False, records[end : at + taken])
        begun = Piece(rest, reader.size - reader.complete_size) if rest.number else None
        return Gathered(taken, whole, position, begun)

    def _batch(self, complete: bool, records: Sequence[LogRecord]) -> Batch:
        tables = [Lines(*rows) for rows in self._reader.rows(complete)]
        return Batch(tables, len(records), partial(_changes_of, records))


def _goes_as_lines(plan: TablePlan, op: str, names: tuple[str, ...]) -> bool:
    """Whether the target can use the rows as they stand in the log, and does not mind their order."""
    if plan.one_by_one or plan.columns != names:
        return False
    return op == "c" or plan.collapsible


def _changes_of(records: Sequence[LogRecord]) -> list[Change]:
    changes: list[Change] = []
    for record in records:
        offset = record.offset() or 0
        event, meta = parse(record.value(), offset)
        before, after = event["before"], event["after"]
        changes.append((event["op"], meta["rel"], before, after, False, meta["commit_lsn"], meta["seq"], offset))
    return changes
