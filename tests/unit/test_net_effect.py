"""The net effect of a window equals serial replay, or is refused."""

from operator import itemgetter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.events.net_effect import Change, NetEffect, NotCollapsible, Row, collapse

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


def test_keys_that_move_in_a_ring():
    def move(old: str, new: str) -> Change:
        return change("u", {"id": old}, {"id": new, "a": f"was {old}", "b": "b"})

    effect = net(move("1", "9"), move("2", "1"), move("9", "2"))
    assert not effect.deletes
    assert not effect.inserts
    assert {row["id"]: row["a"] for row in effect.updates[COLUMNS]} == {"1": "was 2", "2": "was 9"}


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
        for row in updated:
            assert row["id"] is not None
            rows[row["id"]].update({name: row[name] for name in names})
    for row in effect.inserts:
        assert row["id"] is not None
        assert row["id"] not in rows
        rows[row["id"]] = row


@given(st.sets(_KEYS), _STEPS)
def test_net_effect_equals_serial_replay(existing: set[str], steps: list[tuple[str, str, int, str]]):
    start: Table = {key: {"id": key, "a": "old", "b": "old"} for key in existing}
    serial = {key: dict(row) for key, row in start.items()}
    changes = _history(serial, steps)
    try:
        effect = collapse(changes, itemgetter("id"), COLUMNS)
    except NotCollapsible:
        return
    _apply(start, effect)
    assert start == serial
