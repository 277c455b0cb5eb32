"""The net effect of a window equals serial replay, or is refused."""

from itertools import groupby
from operator import itemgetter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.events.net_effect import Change, Line, Lines, NetEffect, NotCollapsible, Row, collapse, inserts_only

COLUMNS = ("id", "a", "b")
Table = dict[str, Row]


def change(op: str, before: Row | None, after: Row | None) -> Change:
    partial = after is not None and len(after) < len(COLUMNS)
    return (op, "shape", before, after, partial, 1, 1, 0)


def insert(key: str, a: str = "a", b: str = "b") -> Change:
    return change("c", None, {"id": key, "a": a, "b": b})


def net(*changes: Change) -> NetEffect:
    return collapse(changes, itemgetter("id"), COLUMNS)


def test_insert_then_update_is_one_insert():
    assert net(insert("1"), change("u", None, {"id": "1", "a": "x", "b": "y"})).inserts == [
        {"id": "1", "a": "x", "b": "y"}
    ]


def test_insert_then_delete_is_nothing():
    assert net(insert("1"), change("d", {"id": "1"}, None)) == NetEffect()


def test_delete_then_insert_of_a_key_replaces_the_row():
    effect = net(change("d", {"id": "1"}, None), insert("1", "x"))
    assert effect.updates == {COLUMNS: [{"id": "1", "a": "x", "b": "b"}]}
    assert not effect.deletes
    assert not effect.inserts


def test_an_unchanged_toast_column_stays_out_of_the_update():
    assert net(change("u", None, {"id": "1", "a": "x"})).updates == {("id", "a"): [{"id": "1", "a": "x"}]}


def test_an_unchanged_toast_column_keeps_what_the_window_knows():
    effect = net(change("u", None, {"id": "1", "a": "x", "b": "old"}), change("u", None, {"id": "1", "a": "y"}))
    assert effect.updates == {COLUMNS: [{"id": "1", "a": "y", "b": "old"}]}


def line_of(row: Row) -> Line:
    return "\t".join(str(row[name]) for name in COLUMNS).encode() + b"\n"


def row_of(row: Row | Line) -> Row:
    return dict(zip(COLUMNS, row.decode()[:-1].split("\t"), strict=True)) if isinstance(row, bytes) else row


def lines(*changes: Change) -> Lines:
    keys = [(change[3] or change[2] or {})["id"] for change in changes]
    return Lines("shape", [change[0] for change in changes], keys, [line_of(c[3]) if c[3] else b"" for c in changes])


def test_of_updates_that_came_as_lines_the_last_of_each_row_counts():
    def update(key: str, a: str) -> Change:
        return change("u", None, {"id": key, "a": a, "b": "b"})

    effect = collapse(
        [update("1", "first"), lines(update("1", "x"), update("2", "y"), update("1", "z")), update("2", "last")],
        itemgetter("id"), COLUMNS,
    )  # fmt: skip
    assert effect == NetEffect(updates={COLUMNS: [b"1\tz\tb\n", {"id": "2", "a": "last", "b": "b"}]})


def test_inserts_that_came_as_lines_stay_lines():
    assert inserts_only([insert("1"), lines(insert("2"), insert("3"))]) == NetEffect(
        inserts=[{"id": "1", "a": "a", "b": "b"}, b"2\ta\tb\n", b"3\ta\tb\n"]
    )


def test_keys_that_move_in_a_ring():
    def move(old: str, new: str) -> Change:
        return change("u", {"id": old}, {"id": new, "a": f"was {old}", "b": "b"})

    effect = net(move("1", "9"), move("2", "1"), move("9", "2"))
    assert not effect.deletes
    assert not effect.inserts
    assert {row["id"]: row["a"] for row in map(row_of, effect.updates[COLUMNS])} == {"1": "was 2", "2": "was 9"}


@pytest.mark.parametrize(
    "changes",
    [
        [insert("1"), insert("1")],
        [change("d", {"id": "1"}, None), change("d", {"id": "1"}, None)],
        [change("d", {"id": "1"}, None), change("u", None, {"id": "1", "a": "x", "b": "y"})],
        [change("u", {"id": "1"}, {"id": "2", "a": "x"})],
    ],
    ids=["inserted twice", "deleted twice", "updated after delete", "key moved, row not known"],
)
def test_what_the_window_cannot_prove_is_refused(changes: list[Change]):
    with pytest.raises(NotCollapsible):
        net(*changes)


_KEYS = st.sampled_from(["1", "2", "3", "4"])
_STEPS = st.lists(st.tuples(_KEYS, _KEYS, st.integers(0, 5), st.sampled_from(["a", "b"])), max_size=30)


def _history(rows: Table, steps: list[tuple[str, str, int, str]]) -> list[Change]:
    """A valid history on `rows`, which it changes as serial replay does."""
    changes = []
    for number, (key, other, what, column) in enumerate(steps):
        text = f"v{number}"
        if key not in rows:
            rows[key] = {"id": key, "a": text, "b": text}
            changes.append(change("c", None, dict(rows[key])))
        elif what == 0:
            del rows[key]
            changes.append(change("d", {"id": key}, None))
        elif what == 1 and other not in rows:
            rows[other] = {**rows.pop(key), "id": other, column: text}
            changes.append(change("u", {"id": key}, dict(rows[other])))
        elif what == 2:
            rows[key][column] = text
            changes.append(change("u", None, {"id": key, column: text}))
        else:
            rows[key][column] = text
            changes.append(change("u", None, dict(rows[key])))
    return changes


def _apply(rows: Table, effect: NetEffect) -> None:
    for key in effect.deletes:
        del rows[key]
    for names, updated in effect.updates.items():
        for row in map(row_of, updated):
            assert row["id"] is not None
            rows[row["id"]].update({name: row[name] for name in names})
    for row in map(row_of, effect.inserts):
        assert row["id"] is not None
        assert row["id"] not in rows
        rows[row["id"]] = row


def _as_lines(changes: list[Change]) -> list[Change | Lines]:
    """The same, with those as lines that may be."""
    items: list[Change | Lines] = []
    for may, group in groupby(changes, lambda change: not change[4] and (change[2] is None or change[0] == "d")):
        own = list(group)
        items += [lines(*own)] if may else own
    return items


@given(st.sets(_KEYS), _STEPS, st.booleans())
def test_net_effect_equals_serial_replay(existing: set[str], steps: list[tuple[str, str, int, str]], as_lines: bool):
    start: Table = {key: {"id": key, "a": "old", "b": "old"} for key in existing}
    serial = {key: dict(row) for key, row in start.items()}
    changes = _history(serial, steps)
    try:
        effect = collapse(_as_lines(changes) if as_lines else changes, itemgetter("id"), COLUMNS)
    except NotCollapsible:
        return
    _apply(start, effect)
    assert start == serial
