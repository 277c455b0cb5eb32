"""What the applier hands to its target, where records are read together and where they are not."""

from __future__ import annotations

import shutil
import sysconfig
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec, patch

import orjson
import pytest

from cdc.errors import CdcError, LogError
from cdc.events.net_effect import NetEffect
from cdc.events.position import Position
from cdc.events.table import TableId, TableSchema
from cdc.log.compiled import HOW_ROWS_PASS, ChangeReader
from cdc.log.envelope import Envelope, finished
from cdc.log.runs import Run
from cdc.ports import LogReader, TablePlan
from cdc.protocol.lsn import Lsn
from cdc.services.apply import ApplyLimits, ApplyService, ApplySession
from cdc.stop import StopToken
from connectors.postgres.target import PostgresTarget
from tests.support.replay import Record, RecordedLog, collector_as_it_was
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

    def plan(schema: Any, not_stored: Any) -> TablePlan:
        facts = {"collapsible": True, "moves_values": False, "one_by_one": False}
        own = special if schema.table.name == f"t{TABLES[0]}" else {}
        return TablePlan(schema, schema.column_names, ("id",), **{**facts, **own})

    found: dict[str, list[NetEffect]] = {}

    def apply_sets(sets: Sequence[tuple[TablePlan, NetEffect]], meanwhile: Callable[[], bool]) -> TablePlan | None:
        while meanwhile():
            pass
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


class Session:
    """An applier's session with a log that is there as far as `end`; while the follower works, more of it comes."""

    def __init__(self, log: list[bytes], end: int, comes: int, fetch: int = 1000, rows: int = 1000) -> None:
        self.target = create_autospec(PostgresTarget, instance=True)
        self.target.plan.side_effect = lambda schema, _: TablePlan(
            schema, schema.column_names, ("id",), collapsible=True, moves_values=False, one_by_one=False
        )
        self.target.apply_sets.side_effect = self._work
        self.committed: list[int] = []
        self.target.commit.side_effect = lambda position, _: self.committed.append(position.next_offset)
        self.log, self.end, self._comes = RecordedLog(log, StopToken()), end, comes
        self.error: CdcError | None = None
        reader = create_autospec(LogReader, instance=True)
        reader.consume.side_effect = self._consume
        reader.known_end.side_effect = lambda: self.end
        reader.watermarks.side_effect = self.log.watermarks
        limits = ApplyLimits(rows=rows, fetch=fetch)
        start = Position(1, Lsn(1), Lsn(2), 0, 0)
        self.session = ApplySession(reader, self.target, limits, "follower", start)
        self._at = 0

    def _consume(self, limit: int, timeout: float) -> list[Record]:
        if self._at >= self.end and self.error is not None:
            raise self.error
        self.log.seek(self._at)
        found = self.log.consume(min(limit, self.end - self._at), 0.0)
        self._at += len(found)
        return found

    def _work(self, sets: Sequence[tuple[TablePlan, NetEffect]], meanwhile: Callable[[], bool]) -> None:
        self.end += self._comes
        while meanwhile():
            pass


TRANSACTIONS = [changes(TABLES[0], "insert", 10) + changes(TABLES[1], "insert", 10)] * 5


@compiled
def test_what_was_read_ahead_is_applied_next_and_told_as_read():
    log = log_of(TRANSACTIONS)
    session = Session(log, len(log) - 40, comes=20)
    session.session.step()
    session.session.step()
    assert session.committed == [len(log) - 40, len(log) - 20]
    session.session.step()
    assert session.committed == [len(log) - 40, len(log) - 20, len(log)]
    assert session.session.place() == (len(log), len(log) + 20)


@compiled
@pytest.mark.parametrize("schema_of_its_place", ["public", "aside"])
def test_a_shape_that_comes_back_gets_its_plan_anew(schema_of_its_place: str):
    log = log_of([changes(TABLES[0], "insert", 10)] * 2)
    described = next(record for record in log if f'"table":"t{TABLES[0]}"'.encode() in record)
    other = orjson.loads(described)
    shape = TableSchema.from_json(other["cdc"]["schema"])
    shape = replace(shape, columns=tuple(replace(column, typmod=9) for column in shape.columns))
    other["cdc"] |= {"rel": shape.fingerprint, "schema": shape.to_json()}
    log[-10:-10] = [orjson.dumps(other), described]
    session = Session(log, len(log), comes=0)
    session.target.plan.side_effect = lambda schema, _: TablePlan(
        replace(schema, table=TableId(schema_of_its_place, schema.table.name)), schema.column_names, ("id",),
        collapsible=True, moves_values=False, one_by_one=False,
    )  # fmt: skip
    session.session.step()
    assert session.committed == [len(log)]
    assert session.target.plan.call_count == 2


@compiled
def test_an_error_of_the_log_comes_after_what_was_read_before_it():
    log = log_of(TRANSACTIONS)
    session = Session(log, len(log) - 20, comes=0)
    session.error = LogError("the log is gone", "", "")
    session.session.step()
    with pytest.raises(LogError, match="the log is gone"):
        session.session.step()
    assert session.committed == [len(log) - 20]


@compiled
def test_windows_are_full_while_more_is_there_also_where_records_are_read_one_by_one():
    odd: list[tuple[int, str, tuple[str | None, ...]]] = [(TABLES[0], "message", ("1", None, None))]
    log = log_of([*TRANSACTIONS, odd] * 20)
    session = Session(log, len(log), comes=0, fetch=50, rows=500)
    while session.session.position.next_offset < len(log):
        session.session.step()
    assert len(session.committed) <= len(log) // 500 + 1


@compiled
def test_what_follows_the_record_that_names_this_node_as_leader_is_not_for_it():
    log = log_of(TRANSACTIONS)
    last = orjson.loads(log[-1])["cdc"]["commit_lsn"]
    envelope = Envelope("test", "test", "0", 2)
    envelope.begin(0, last + 1, last, 0, 0)
    epoch = finished(envelope.epoch("follower", "1", 1, "slot", 1, {}), last + 2)[1]
    session = Session([*log, epoch, *log[-20:]], len(log), comes=30)
    session.session.step()
    session.session.step()
    session.session.finish()
    assert session.session.leads
    assert session.committed == [len(log), len(log) + 1]
