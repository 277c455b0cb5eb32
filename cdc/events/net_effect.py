"""HOT PATH: what several changes of the same rows come to, so that each row is written once.

Works on one table and one shape of it at a time. A change is a plain tuple (see `Change`), a row the
`dict` that the log carried: column name to text or None. Nothing here knows SQL.

The result equals serial replay as long as the key is the only thing that finds a row; where that is
not so the caller replays row by row (`cdc/services/replay.py` says when). Key texts are compared, not
key values: two texts that are equal to PostgreSQL (`1.0` and `1.00`) are never alive together, and
deletes run before inserts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

Row: TypeAlias = dict[str, str | None]
Change: TypeAlias = tuple[str, str, Row | None, Row | None, bool, int, int, int]
"""(op, fingerprint of the table's shape, before, after, whether columns are unchanged and absent, commit LSN, seq,
offset in the log)"""
Line: TypeAlias = bytes
"""A row as a line of COPY (PostgreSQL manual, COPY, "Text Format"): all columns in the order of the table's shape."""


class Lines(NamedTuple):
    """Changes of one shape of a table that carry whole rows and name no other old one, in order."""

    fingerprint: str
    ops: list[str]
    keys: list[Any]
    """What `KeyOf` returns of each row; None where the table's changes do not collapse."""
    lines: list[Line]
    """Nothing, for a deletion."""


class Batch(NamedTuple):
    """Changes that follow each other, of any tables, by table; the same one by one when they are asked for."""

    tables: list[Lines]
    number: int
    changes: Callable[[], list[Change]]


def one_by_one(items: Iterable[Change | Batch]) -> Iterator[Change]:
    for item in items:
        if isinstance(item, Batch):
            yield from item.changes()
        else:
            yield item


KeyOf: TypeAlias = Callable[[Any], Any]
"""operator.itemgetter of the key columns"""

_INSERT, _UPDATE, _DELETE, _GONE = range(4)
"""What a key comes to. GONE: inserted and deleted again inside the window."""
Net: TypeAlias = dict[Any, tuple[int, Row | Line]]
"""By key: what it comes to, and the newest that is known of its row."""


class NotCollapsible(Exception):
    """The net effect is not provable from the window alone; replay these changes one by one."""


@dataclass(slots=True)
class NetEffect:
    """To be applied in this order: deletes, updates, inserts. Updates are grouped by the columns they set."""

    deletes: list[Any] = field(default_factory=list)
    updates: dict[tuple[str, ...], list[Row | Line]] = field(default_factory=dict)
    inserts: list[Row | Line] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return len(self.deletes) + len(self.inserts) + sum(map(len, self.updates.values()))


def only(op: str, change: Change | Lines) -> bool:
    """Whether it is that operation, or several of it."""
    return change.ops.count(op) == len(change.ops) if isinstance(change, Lines) else change[0] == op


def inserts_only(changes: Iterable[Change | Lines]) -> NetEffect:
    """Net effect of `changes` that are all inserts."""
    rows: list[Row | Line] = []
    for change in changes:
        if isinstance(change, Lines):
            rows += change.lines
        elif change[3] is not None:
            rows.append(change[3])
    return NetEffect(inserts=rows)


def collapse(changes: Sequence[Change | Lines], key_of: KeyOf, columns: tuple[str, ...]) -> NetEffect:
    """Net effect of `changes`, all of one table shape with `columns`, in source order.

    `deletes` holds what `key_of` returns for each row. Raises NotCollapsible when a change does not
    fit what the window knows (a second insert, an update of a deleted row), moves a key without
    carrying the whole row, or changes a part of a row that came as a line.
    """
    net: Net = {}
    try:
        if all(_keeps_its_place(change) for change in changes):
            newest = _newest(changes, key_of)
            return NetEffect(updates={columns: newest}) if newest else NetEffect()
        for change in changes:
            if isinstance(change, Lines):
                _collapse_lines(net, change)
                continue
            op, _, before, after, partial, _, _, _ = change
            if op == "c":
                _insert(net, key_of(after), after)  # type: ignore[arg-type]
            elif op == "d":
                _delete(net, key_of(before), before)  # type: ignore[arg-type]
            else:
                _update(net, key_of, before, after, partial)  # type: ignore[arg-type]
    except KeyError as error:
        raise NotCollapsible from error
    return _grouped(net, columns)


def _keeps_its_place(change: Change | Lines) -> bool:
    """Whether it is an update of a whole row that stays where it is, or several."""
    return only("u", change) and (isinstance(change, Lines) or (change[2] is None and not change[4]))


def _newest(changes: Sequence[Change | Lines], key_of: KeyOf) -> list[Row | Line]:
    """Of whole rows that stay where they are, the last of each is all there is to it."""
    newest: dict[Any, Row | Line] = {}
    for change in changes:
        if isinstance(change, Lines):
            newest.update(zip(change.keys, change.lines, strict=True))
        else:
            newest[key_of(change[3])] = change[3]  # type: ignore[assignment]
    return [*newest.values()]


def _collapse_lines(net: Net, changes: Lines) -> None:
    for op, key, line in zip(changes.ops, changes.keys, changes.lines, strict=True):
        if op == "c":
            _insert(net, key, line)
        elif op == "d":
            _delete(net, key, line)
        else:
            _replace(net, key, line)


def _replace(net: Net, key: Any, row: Row | Line) -> None:
    """The whole row is a new one."""
    known = net.get(key)
    if known is None:
        net[key] = (_UPDATE, row)
    elif known[0] in (_INSERT, _UPDATE):
        net[key] = (known[0], row)
    else:
        raise NotCollapsible


def _merged(known: Row | Line, after: Row) -> Row:
    if isinstance(known, bytes):
        raise NotCollapsible
    return {**known, **after}


def _insert(net: Net, key: Any, row: Row | Line) -> None:
    known = net.get(key)
    if known is None or known[0] == _GONE:
        net[key] = (_INSERT, row)
    elif known[0] == _DELETE:
        net[key] = (_UPDATE, row)
    else:
        raise NotCollapsible


def _delete(net: Net, key: Any, row: Row | Line) -> None:
    known = net.get(key)
    if known is None or known[0] == _UPDATE:
        net[key] = (_DELETE, row)
    elif known[0] == _INSERT:
        net[key] = (_GONE, row)
    else:
        raise NotCollapsible


def _update(net: Net, key_of: KeyOf, before: Row | None, after: Row, partial: bool) -> None:
    old_key = key_of(before) if before is not None else None
    # A TOASTed key column that did not change is only in the old key.
    key = key_of({**before, **after}) if partial and before is not None else key_of(after)
    if old_key is not None and old_key != key:
        _move(net, old_key, key, after, partial)
        return
    if partial and (known := net.get(key)) is not None:
        after = _merged(known[1], after)
    _replace(net, key, after)


def _move(net: Net, old_key: Any, key: Any, after: Row, partial: bool) -> None:
    """A change of the key is a delete and an insert, if the whole row is known."""
    if partial:
        known = net.get(old_key)
        if known is None or known[0] != _INSERT:
            raise NotCollapsible
        after = _merged(known[1], after)
    _delete(net, old_key, after)
    _insert(net, key, after)


def _grouped(net: Net, columns: tuple[str, ...]) -> NetEffect:
    effect = NetEffect()
    width = len(columns)
    for key, (kind, row) in net.items():
        if kind == _INSERT:
            effect.inserts.append(row)
        elif kind == _UPDATE:
            is_whole = isinstance(row, bytes) or len(row) == width
            present = columns if is_whole else tuple(name for name in columns if name in row)
            effect.updates.setdefault(present, []).append(row)
        elif kind == _DELETE:
            effect.deletes.append(key)
    return effect
