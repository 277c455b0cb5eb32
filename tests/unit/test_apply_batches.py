"""What the applier hands to its target, where records are read together and where they are not."""

from __future__ import annotations

import shutil
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec, patch

import pytest

from cdc.events.net_effect import NetEffect
from cdc.events.position import Position
from cdc.log.compiled import HOW_ROWS_PASS, ChangeReader
from cdc.log.runs import Run
from cdc.ports import TablePlan
from cdc.protocol.lsn import Lsn
from cdc.services.apply import ApplyLimits, ApplyService
from cdc.stop import StopToken
from connectors.postgres.target import PostgresTarget
from tests.support.replay import RecordedLog, collector_as_it_was
from tests.unit.test_runs import TABLES, log_of

compiled = pytest.mark.skipif(ChangeReader is None, reason="cdc.log.change_reader is not compiled here")


def test_the_hot_path_is_compiled_where_a_compiler_is():
    headers = Path(sysconfig.get_path("include"), "Python.h")
    if shutil.which("cc") is None or not headers.exists():
        pytest.skip("no C compiler, or no headers of Python, is installed on this system")
    assert HOW_ROWS_PASS == "compiled", "python ops/compile.py says what is wrong"


ORDERLY = {"one_by_one": True, "collapsible": False}
EXCHANGING = {"moves_values": True}
KEYLESS = {"collapsible": False}


def effects(
    log: list[bytes], special: dict[str, bool], *, is_compiled: bool, fails: bool = False, rows: int = 1000
) -> dict[str, list[NetEffect]]:
    """By table, what was applied as sets, or tried to; the first table's plan is a `special` one."""
    stop = StopToken()
    target = create_autospec(PostgresTarget, instance=True)
    target.copied_ahead.return_value = {}
    target.open.return_value = Position(1, Lsn(1), Lsn(2), 0, 0)

    def plan(schema: Any) -> TablePlan:
        facts = {"collapsible": True, "moves_values": False, "one_by_one": False}
        own = special if schema.table.name == f"t{TABLES[0]}" else {}
        return TablePlan(schema, schema.column_names, ("id",), **{**facts, **own})

    found: dict[str, list[NetEffect]] = {}

    def apply_sets(sets: Sequence[tuple[TablePlan, NetEffect]]) -> TablePlan | None:
        for own, effect in sets:
            found.setdefault(own.schema.table.name, []).append(effect)
        return sets[0][0] if sets and fails else None

    target.plan.side_effect, target.apply_sets.side_effect = plan, apply_sets
    service = ApplyService(lambda: RecordedLog(log, stop), target, "follower", ApplyLimits(rows=rows, fetch=rows))
    with (
        collector_as_it_was(),
        patch("cdc.services.replay.SMALL_SEGMENT", 0),
        patch("cdc.services.apply.ChangeReader", ChangeReader if is_compiled else None),
    ):
        service.run(stop)
    return found


def rows_of(effect: NetEffect) -> list[Any]:
    return [*effect.inserts, *(row for rows in effect.updates.values() for row in rows)]


def changes(table: int, op: str, count: int) -> list[tuple[int, str, tuple[str | None, ...]]]:
    return [(table, op, (str(number), "text", None)) for number in range(count)]


@compiled
@pytest.mark.parametrize("special", [ORDERLY, KEYLESS])
def test_a_table_whose_changes_keep_their_order_leaves_the_lines_of_others_alone(special: dict[str, bool]):
    log = log_of([changes(TABLES[0], "update", 1) + changes(TABLES[1], "insert", 20)])
    (effect,) = effects(log, special, is_compiled=True)[f"t{TABLES[1]}"]
    assert [type(row) for row in rows_of(effect)].count(bytes) == 19, "all but the first, which is learned from"


@compiled
def test_lines_of_a_table_become_rows_again_where_only_rows_prove_the_net_effect():
    table = TABLES[1]
    log = log_of([[*changes(table, "insert", 5), (table, "partial", ("3", None, "new")), *changes(table, "update", 2)]])
    (effect,) = effects(log, {}, is_compiled=True)[f"t{table}"]
    assert effect == effects(log, {}, is_compiled=False)[f"t{table}"][0]
    assert {type(row) for row in rows_of(effect)} == {dict}


@pytest.mark.parametrize("is_compiled", [pytest.param(True, marks=compiled), False])
def test_updates_that_must_keep_their_order_are_read_as_a_run(is_compiled: bool):
    log = log_of([changes(TABLES[0], "update", 50)])
    with patch.object(Run, "rows", autospec=True, side_effect=Run.rows) as rows:
        assert effects(log, KEYLESS, is_compiled=is_compiled) == {}
    assert rows.call_count > 0


@pytest.mark.parametrize("is_compiled", [pytest.param(True, marks=compiled), False])
def test_a_table_whose_rows_exchange_unique_values_goes_in_order_for_a_while(is_compiled: bool):
    log = log_of([changes(TABLES[0], "update", 5)] * 8)
    name = f"t{TABLES[0]}"
    assert len(effects(log, EXCHANGING, is_compiled=is_compiled, rows=10)[name]) == 4, "windows of two transactions"
    with patch("cdc.services.replay.WINDOWS_IN_ORDER", 2):
        assert len(effects(log, EXCHANGING, is_compiled=is_compiled, rows=10, fails=True)[name]) == 2, (
            "the first and the last"
        )
    with patch("cdc.services.replay.WINDOWS_IN_ORDER", 3):
        assert len(effects(log, EXCHANGING, is_compiled=is_compiled, rows=10, fails=True)[name]) == 1, "three rest"
    assert len(effects(log, {}, is_compiled=is_compiled, rows=10, fails=True)[name]) == 4, "it was something else"
