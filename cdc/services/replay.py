"""HOT PATH: how the changes of a window reach the follower.

Each table is written once a row (`net_effect`). Where that is not provably the same as serial replay - no key, triggers
that fire for the applier, columns that only the follower has - its changes run one by one in source order.
When a set does not meet exactly the rows it must, or two rows exchange a unique value in it, the whole piece is undone
and runs again one by one, which names the culprit if there is one (`ops/decisions/0005-updates-and-unique-keys.md`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import itemgetter

import structlog

from cdc.events.net_effect import (
    Batch,
    Change,
    Lines,
    NetEffect,
    NotCollapsible,
    collapse,
    inserts_only,
    one_by_one,
    only,
)
from cdc.events.table import TableId
from cdc.log.records import MalformedError, Truncation, check_texts, unfit
from cdc.ports import TablePlan, Target
from cdc.services.window import Item

log = structlog.get_logger(__name__)

SMALL_SEGMENT = 2
"""Up to so many changes a table go one by one, which is cheaper than a set of them; three cost the same."""

WINDOWS_IN_ORDER = 100
"""So many windows with updates of a table go in order after a set of its updates failed: who exchanges unique values
once does it again, and a set that fails is work for nothing."""


class Replay:
    """Applies windows in the follower's open transaction. `plans` are by the fingerprint of the table's shape."""

    def __init__(self, target: Target, plans: Mapping[str, TablePlan]) -> None:
        self._target = target
        self._plans = plans
        self._exchanges: Counter[str] = Counter()
        """Windows that are still to go in order, by shape."""

    def apply(self, items: list[Item], meanwhile: Callable[[], bool]) -> None:
        """`meanwhile` as `Target.apply_sets` calls it."""
        try:
            for segment in self._segments(items):
                if isinstance(segment, Truncation):
                    self._target.truncate(segment)
                else:
                    self._apply_segment(segment, meanwhile)
        except (TypeError, ValueError):
            # COPY's text takes nothing but text; looking at each value before would cost more than all the rest.
            _check_all_texts(items)
            raise

    def _segments(self, items: list[Item]) -> Iterator[list[Change | Batch] | Truncation]:
        """Runs of changes in which the order between tables does not matter and each table has one shape."""
        run: list[Change | Batch] = []
        shapes: dict[str, TableId] = {}
        for item in _with_one_shape_a_table(items, self._plans):
            if isinstance(item, Truncation):
                if run:
                    yield run
                yield item
                run, shapes = [], {}
                continue
            own = {fingerprint: self._plans[fingerprint].schema.table for fingerprint in _shapes_of(item)}
            if any(table in shapes.values() for fingerprint, table in own.items() if fingerprint not in shapes):
                yield run
                run, shapes = [], {}
            shapes |= own
            run.append(item)
        if run:
            yield run

    def _apply_segment(self, changes: list[Change | Batch], meanwhile: Callable[[], bool]) -> None:
        by_shape = _by_shape(changes)
        most = SMALL_SEGMENT * len(by_shape)
        if len(changes) <= most and _count(changes) <= most:
            self._in_order(changes)
            return
        if not self._as_sets(changes, by_shape, meanwhile):
            log.info("a set did not meet exactly its rows, replaying one by one", changes=_count(changes))
            self._in_order(changes)

    def _as_sets(
        self,
        changes: list[Change | Batch],
        by_shape: dict[str, list[Change | Lines]],
        meanwhile: Callable[[], bool],
    ) -> bool:
        """False when nothing was done."""
        effects = {fingerprint: _net_effect(self._plans[fingerprint], own) for fingerprint, own in by_shape.items()}
        # Where lines prove no net effect, rows may, and if not, they go in order.
        for fingerprint in _as_rows(changes, by_shape, [shape for shape, effect in effects.items() if effect is None]):
            effects[fingerprint] = _net_effect(self._plans[fingerprint], by_shape[fingerprint])
        exchanging = [
            shape for shape, effect in effects.items() if effect and effect.updates and self._exchanges[shape]
        ]
        _as_rows(changes, by_shape, exchanging)
        for fingerprint in exchanging:
            self._exchanges[fingerprint] -= 1
            effects[fingerprint] = None
        sets = [(self._plans[fingerprint], effect) for fingerprint, effect in effects.items() if effect is not None]
        failed = self._target.apply_sets(sets, meanwhile)
        if failed is not None:
            for fingerprint, effect in effects.items():
                if self._plans[fingerprint] is failed and failed.moves_values and effect and effect.updates:
                    self._exchanges[fingerprint] = WINDOWS_IN_ORDER
            return False
        for fingerprint, effect in effects.items():
            if effect is None:
                self._in_order([change for change in by_shape[fingerprint] if not isinstance(change, Lines)])
        return True

    def _in_order(self, items: Sequence[Change | Batch]) -> None:
        changes = [*one_by_one(items)]
        _check_all_texts(changes)
        plans = self._plans
        self._target.apply_in_order([(plans[change[1]], change) for change in changes])


def _as_rows(
    changes: list[Change | Batch], by_shape: dict[str, list[Change | Lines]], shapes: Iterable[str]
) -> set[str]:
    """Let those of `shapes` that have lines in `by_shape` have the rows of `changes` there; which these are."""
    with_lines = {shape for shape in shapes if any(isinstance(change, Lines) for change in by_shape[shape])}
    if with_lines:
        by_shape.update({shape: [] for shape in with_lines})
        for change in one_by_one(changes):
            if change[1] in with_lines:
                by_shape[change[1]].append(change)
    return with_lines


def _with_one_shape_a_table(items: Iterable[Item], plans: Mapping[str, TablePlan]) -> Iterator[Item]:
    """The same, with batches that hold two shapes of a table one by one. No log of ours has such: a record that
    describes the new shape stands before it."""
    for item in items:
        if isinstance(item, Batch) and len({plans[shape].schema.table for shape in _shapes_of(item)}) < len(
            item.tables
        ):
            yield from item.changes()
        else:
            yield item


def _shapes_of(item: Change | Batch) -> Iterable[str]:
    return (lines.fingerprint for lines in item.tables) if isinstance(item, Batch) else (item[1],)


def _by_shape(changes: Iterable[Change | Batch]) -> dict[str, list[Change | Lines]]:
    by_shape: dict[str, list[Change | Lines]] = {}
    for change in changes:
        if isinstance(change, Batch):
            for lines in change.tables:
                by_shape.setdefault(lines.fingerprint, []).append(lines)
        else:
            by_shape.setdefault(change[1], []).append(change)
    return by_shape


def _count(changes: Iterable[Change | Batch]) -> int:
    return sum(change.number if isinstance(change, Batch) else 1 for change in changes)


def _check_all_texts(items: Iterable[Item]) -> None:
    """Raises LogError for the first change with a value that is not text."""
    for item in items:
        if not isinstance(item, Truncation | Batch):
            try:
                check_texts(item[2])
                check_texts(item[3])
            except MalformedError as error:
                raise unfit(item[7], error) from error


def _net_effect(plan: TablePlan, changes: list[Change | Lines]) -> NetEffect | None:
    """What `changes` of one table come to, or None where only source order is provably right."""
    if plan.one_by_one:
        return None
    if all(only("c", change) for change in changes):
        return inserts_only(changes)
    if not plan.collapsible:
        return None
    try:
        return collapse(changes, itemgetter(*plan.key), plan.columns)
    except NotCollapsible:
        return None
