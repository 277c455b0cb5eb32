"""HOT PATH: what several changes of the same rows come to, so that each row is written once.

Works on one table and one shape of it at a time. A change is a plain tuple (see `Change`), a row the
`dict` that the log carried: column name to text or None. Nothing here knows SQL.

The result equals serial replay as long as the key is the only thing that finds a row; where that is
not so the caller replays row by row (`cdc/services/apply.py` says when). Key texts are compared, not
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


class Alike(NamedTuple):
    """Several inserts, or updates of whole rows that name no old one, of one table in one transaction, as lines."""

    op: str
    fingerprint: str
    lines: list[Line]
    keys: list[Any]
    """What `KeyOf` would return of each; empty when the table's changes do not collapse."""
    changes: Callable[[], list[Change]]
    """The same one by one."""


def one_by_one(items: Iterable[Change | Alike]) -> Iterator[Change]:
    for item in items:
        if isinstance(item, Alike):
            yield from item.changes()
        else:
            yield item


KeyOf: TypeAlias = Callable[[Any], Any]
"""operator.itemgetter of the key columns"""

_INSERT, _UPDATE, _DELETE, _GONE = range(4)
"""What a key comes to. GONE: inserted and deleted again inside the window."""


class NotCollapsible(Exception):
    """The net effect is not provable from the window alone; replay these changes one by one."""


@dataclass(slots=True)
class NetEffect:
    """To be applied in this order: deletes, updates, inserts. Updates are grouped by the columns they set."""

    deletes: list[Any] = field(default_factory=list)
    updates: dict[tuple[str, ...], list[Row | Line]] = field(default_factory=dict)
    inserts: list[Row | Line] = field(default_factory=list)


def inserts_only(changes: Iterable[Change | Alike]) -> NetEffect:
    """Net effect of `changes` that are all inserts."""
    rows: list[Row | Line] = []
    for change in changes:
        if isinstance(change, Alike):
            rows += change.lines
        elif change[3] is not None:
            rows.append(change[3])
    return NetEffect(inserts=rows)


def collapse(changes: Sequence[Change | Alike], key_of: KeyOf, columns: tuple[str, ...]) -> NetEffect:
    """Net effect of `changes`, all of one table shape with `columns`, in source order.

    `deletes` holds what `key_of` returns for each row. Raises NotCollapsible when a change does not
    fit what the window knows (a second insert, an update of a deleted row), or moves a key without
    carrying the whole row.
    """
    net: dict[Any, tuple[int, Row]] = {}
    try:
        if all(_keeps_its_place(change) for change in changes):
            newest = _newest(changes, key_of)
            return NetEffect(updates={columns: newest}) if newest else NetEffect()
        for op, _, before, after, partial, _, _, _ in one_by_one(changes):
            if op == "c":
                _insert(net, key_of(after), after)  # type: ignore[arg-type]
            elif op == "d":
                _delete(net, key_of(before), before)  # type: ignore[arg-type]
            else:
                _update(net, key_of, before, after, partial)  # type: ignore[arg-type]
    except KeyError as error:
        raise NotCollapsible from error
    return _grouped(net, columns)


def _keeps_its_place(change: Change | Alike) -> bool:
    """Whether it is an update of a whole row that stays where it is, or several."""
    return change[0] == "u" and (isinstance(change, Alike) or (change[2] is None and not change[4]))


def _newest(changes: Sequence[Change | Alike], key_of: KeyOf) -> list[Row | Line]:
    """Of whole rows that stay where they are, the last of each is all there is to it."""
    newest: dict[Any, Row | Line] = {}
    for change in changes:
        if isinstance(change, Alike):
            newest.update(zip(change.keys, change.lines, strict=True))
        else:
            newest[key_of(change[3])] = change[3]  # type: ignore[assignment]
    return [*newest.values()]


def _insert(net: dict[Any, tuple[int, Row]], key: Any, row: Row) -> None:
    known = net.get(key)
    if known is None or known[0] == _GONE:
        net[key] = (_INSERT, row)
    elif known[0] == _DELETE:
        net[key] = (_UPDATE, row)
    else:
        raise NotCollapsible


def _delete(net: dict[Any, tuple[int, Row]], key: Any, row: Row) -> None:
    known = net.get(key)
    if known is None or known[0] == _UPDATE:
        net[key] = (_DELETE, row)
    elif known[0] == _INSERT:
        net[key] = (_GONE, row)
    else:
        raise NotCollapsible


def _update(net: dict[Any, tuple[int, Row]], key_of: KeyOf, before: Row | None, after: Row, partial: bool) -> None:
    old_key = key_of(before) if before is not None else None
    # A TOASTed key column that did not change is only in the old key.
    key = key_of({**before, **after}) if partial and before is not None else key_of(after)
    if old_key is not None and old_key != key:
        _move(net, old_key, key, after, partial)
        return
    known = net.get(key)
    if known is None:
        net[key] = (_UPDATE, after)
    elif known[0] in (_INSERT, _UPDATE):
        net[key] = (known[0], {**known[1], **after} if partial else after)
    else:
        raise NotCollapsible


def _move(net: dict[Any, tuple[int, Row]], old_key: Any, key: Any, after: Row, partial: bool) -> None:
    """A change of the key is a delete and an insert, if the whole row is known."""
    if partial:
        known = net.get(old_key)
        if known is None or known[0] != _INSERT:
            raise NotCollapsible
        after = {**known[1], **after}
    _delete(net, old_key, after)
    _insert(net, key, after)


def _grouped(net: dict[Any, tuple[int, Row]], columns: tuple[str, ...]) -> NetEffect:
    effect = NetEffect()
    width = len(columns)
    for key, (kind, row) in net.items():
        if kind == _INSERT:
            effect.inserts.append(row)
        elif kind == _UPDATE:
            present = columns if len(row) == width else tuple(name for name in columns if name in row)
            effect.updates.setdefault(present, []).append(row)
        elif kind == _DELETE:
            effect.deletes.append(key)
    return effect
