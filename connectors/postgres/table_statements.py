"""The SQL of one shape of a table on a follower: sets by a staging table, and single changes.

A `TableStatements` is made once a shape and session; its statements are composed once and used for every window.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable
from itertools import count
from operator import itemgetter

from psycopg import sql

from cdc.events.net_effect import Change, Row
from cdc.events.table import TableId, TableSchema
from cdc.ports import TablePlan
from connectors.postgres.catalog import TableFacts
from connectors.postgres.script import Step

_MOST_ARRAYS = 100
"""Columns of a table."""


def qualified(table: TableId) -> sql.Identifier:
    return sql.Identifier(table.schema, table.name)


def only(table: TableId, facts: TableFacts) -> sql.Composed:
    """The table without those that inherit from it; a partitioned table is nothing without its partitions."""
    return sql.SQL("" if facts.partitioned else "ONLY ") + qualified(table)


def _made_by_users(type_name: str) -> bool:
    return not type_name.startswith("pg_catalog.")


def cells_of(names: tuple[str, ...]) -> Callable[[Row], Collection[str | None]]:
    if len(names) == 1:
        only = names[0]
        return lambda row: (row[only],)
    return itemgetter(*names)


class _Source:
    """Rows with some columns of a table, and the statements that bring the table to them."""

    def __init__(self, table: TableStatements, names: tuple[str, ...], rows: sql.Composable) -> None:
        key = table.plan.key
        match = sql.SQL(" AND ").join(
            sql.SQL("t.{0} {1} s.{0}{2}").format(
                sql.Identifier(name), sql.SQL(table.equality(name)), sql.SQL(table.collation(name))
            )
            for name in key
        )
        assigned = [name for name in names if name not in key] or [name for name in key if name not in table.always]
        values = sql.SQL(", ").join(sql.SQL("{0} = s.{0}").format(sql.Identifier(name)) for name in assigned)
        parts = {"rows": rows, "table": table.only, "match": match, "values": values}
        update = "UPDATE {table} AS t SET {values} FROM {rows} WHERE {match}"
        if not assigned:  # nothing but the key is known: all that is left is to see that the rows are there
            update = "SELECT FROM {table} AS t JOIN {rows} ON {match}"
        delete = "DELETE FROM {table} AS t USING {rows} WHERE {match}"
        self.statements = {
            op: sql.SQL(text).format(**parts).as_bytes(None) for op, text in (("u", update), ("d", delete))
        }
        """By the op of a change."""


class Stage(_Source):
    """A temporary table with some columns of a table, and the statements that use it."""

    def __init__(self, table: TableStatements, names: tuple[str, ...]) -> None:
        what = (table.plan.schema.fingerprint, names, [table.type_of(name) for name in names])
        tag = hashlib.sha256(repr(what).encode()).hexdigest()[:16]
        self.name = f"cdc_stage_{tag}"
        stage = sql.Identifier("pg_temp", self.name)
        super().__init__(table, names, sql.SQL("{} AS s").format(stage))
        columns = sql.SQL(", ").join(map(sql.Identifier, names))

        def composed(statement: str) -> bytes:
            return sql.SQL(statement).format(stage=stage, columns=columns, table=table.only).as_bytes(None)

        self.create = composed(
            "CREATE TEMPORARY TABLE IF NOT EXISTS {stage} ON COMMIT DELETE ROWS AS "
            "SELECT {columns} FROM {table} WITH NO DATA"
        )
        self.empty = composed("TRUNCATE {stage}")
        self.copy_into = composed("COPY {stage} ({columns}) FROM STDIN")


class Arrays(_Source):
    """An array a column as parameters, and the statements that use them."""

    def __init__(self, table: TableStatements, names: tuple[str, ...], types: Iterable[str]) -> None:
        arrays = sql.SQL(", ").join(sql.SQL(f"${number}::{name}") for number, name in enumerate(types, 1))
        columns = sql.SQL(", ").join(map(sql.Identifier, names))
        rows = sql.SQL("unnest({}) AS s ({})").format(arrays, columns)
        super().__init__(table, names, rows)
        self.statements["c"] = (
            sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT * FROM {}")
            .format(qualified(table.plan.schema.table), columns, rows)
            .as_bytes(None)
        )


class TableStatements:
    """A shape of a table with its plan and its SQL."""

    def __init__(self, schema: TableSchema, facts: TableFacts) -> None:
        columns = tuple(c.name for c in schema.columns if c.name in facts.columns)
        key = schema.key_columns
        if not key and facts.primary_key and set(facts.primary_key) <= set(columns):
            key = facts.primary_key if schema.identity.value == "f" else ()
        self._facts = facts
        self.always = facts.always
        self.partitioned = facts.partitioned
        self.only = only(schema.table, facts)
        self.own_types = ", ".join(f"{c} ({t.name})" for c, t in facts.types.items() if _made_by_users(t.name))
        """Columns whose types were made by users, with their names, for people."""
        has_index = any(set(names) == set(key) for names in facts.unique_keys)
        self.plan = TablePlan(
            schema=schema,
            columns=columns,
            key=key,
            collapsible=bool(key) and has_index and facts.always <= set(key) <= set(columns) == set(facts.columns),
            moves_values=facts.other_unique_indexes > 0,
            one_by_one=bool(facts.firing_triggers) or not columns,
        )
        all_columns = len(columns) == len(schema.columns)
        self.cells: Callable[[Row], Collection[str | None]] = dict.values if all_columns else cells_of(columns)
        copy_into = sql.SQL("COPY {} ({}) FROM STDIN").format(
            qualified(schema.table), sql.SQL(", ").join(map(sql.Identifier, columns))
        )
        self.copy_into = copy_into.as_bytes(None)
        self.fit_in_arrays = len(columns) <= _MOST_ARRAYS and set(columns) <= facts.arrays.keys()
        self._stages: dict[tuple[str, ...], Stage] = {}
        self._arrays: dict[tuple[str, ...], Arrays] = {}
        self._statements: dict[tuple[str, tuple[str, ...]], bytes] = {}

    def equality(self, name: str) -> str:
        """The operator that the index on the key uses, as SQL."""
        return self._facts.equality.get(name, "=")

    def collation(self, name: str) -> str:
        """How to make the operator compare as that index does, as SQL that follows a value."""
        collation = self._facts.collation.get(name)
        return f" COLLATE {collation}" if collation else ""

    def type_of(self, name: str) -> str:
        """The column's type here, as SQL."""
        return self._facts.type_of(name)

    def stage(self, names: tuple[str, ...]) -> Stage:
        if names not in self._stages:
            self._stages[names] = Stage(self, names)
        return self._stages[names]

    def arrays(self, names: tuple[str, ...]) -> Arrays:
        if names not in self._arrays:
            self._arrays[names] = Arrays(self, names, (self._facts.arrays[name] for name in names))
        return self._arrays[names]

    def one(self, change: Change) -> Step:
        """One change as a statement that must meet exactly one row."""
        op, _, before, after, *_ = change
        if op == "c" and after is not None:
            return self._step("c", self.plan.columns, [after[name] for name in self.plan.columns])
        if op == "d" and before is not None:
            return self._step("d", (), self._old(before))
        if after is None:
            raise ValueError("a change without its row")
        settled = self.always.intersection(self.plan.key) if before is None else frozenset()
        names = tuple(name for name in self.plan.columns if name in after and name not in settled)
        old = self._old(before if before is not None else after)
        if not self.always.isdisjoint(names):
            own = [after[name] for name in self._facts.columns if name in names]
            return self._step("x", names, old + own)
        return self._step("u", names, [after[name] for name in names] + old)

    def _step(self, op: str, names: tuple[str, ...], values: list[str | None]) -> Step:
        statement = self._statements.get((op, names))
        if statement is None:
            statement = self._statements[op, names] = self._compose(op, names).as_bytes(None)
        return Step(statement, values=[None if value is None else value.encode() for value in values])

    def _old(self, row: Row) -> list[str | None]:
        return [row[name] for name in self._found_by]

    def _compose(self, op: str, names: tuple[str, ...]) -> sql.Composed:
        columns = sql.SQL(", ").join(map(sql.Identifier, names))
        table = qualified(self.plan.schema.table)
        if op == "c" and not names:
            return sql.SQL("INSERT INTO {} DEFAULT VALUES").format(table)
        if op == "c":
            values = sql.SQL(", ").join(map(_parameter, range(1, len(names) + 1)))
            return sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE VALUES ({})").format(table, columns, values)
        if op == "d":
            return sql.SQL("DELETE FROM {} WHERE {}").format(self.only, self._find(1))
        if op == "x":
            return self._compose_exchange(names)
        if not names:  # nothing but the key is known: all that is left is to see that the row is there
            return sql.SQL("SELECT FROM {} WHERE {}").format(self.only, self._find(1))
        assigned = sql.SQL(", ").join(
            sql.SQL("{} = {}").format(sql.Identifier(name), _parameter(number)) for number, name in enumerate(names, 1)
        )
        return sql.SQL("UPDATE {} SET {} WHERE {}").format(self.only, assigned, self._find(len(names) + 1))

    def _compose_exchange(self, names: tuple[str, ...]) -> sql.Composed:
        """An UPDATE of a column that none may set (the leader did SET c = DEFAULT): only an INSERT may."""
        columns = tuple(self._facts.columns)
        numbers = count(len(self._found_by) + 1)
        cells = [_parameter(next(numbers)) if name in names else sql.Identifier("gone", name) for name in columns]
        return sql.SQL(
            "WITH gone AS (DELETE FROM {} WHERE {} RETURNING *) "
            "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM gone"
        ).format(
            self.only,
            self._find(1),
            qualified(self.plan.schema.table),
            sql.SQL(", ").join(map(sql.Identifier, columns)),
            sql.SQL(", ").join(cells),
        )

    @property
    def _found_by(self) -> tuple[str, ...]:
        """The columns that tell a row from others."""
        return self.plan.key or self.plan.columns

    def _find(self, first: int) -> sql.Composable:
        """What is true of one row, whose values in `_found_by` are the parameters from `first` on."""
        found_by = [(sql.Identifier(name), _parameter(n), name) for n, name in enumerate(self._found_by, first)]
        if self.plan.key:
            return sql.SQL(" AND ").join(
                sql.SQL("{} {} {}::{}{}").format(
                    column,
                    sql.SQL(self.equality(name)),
                    parameter,
                    sql.SQL(self.type_of(name)),
                    sql.SQL(self.collation(name)),
                )
                for column, parameter, name in found_by
            )
        same: sql.Composable = sql.SQL(" AND ").join(
            sql.SQL('{}::text COLLATE "C" IS NOT DISTINCT FROM ({}::{})::text').format(
                column, parameter, sql.SQL(self.type_of(name))
            )
            for column, parameter, name in found_by
        )
        if not self.plan.columns:
            same = sql.SQL("true")
        return sql.SQL("(tableoid, ctid) = (SELECT tableoid, ctid FROM {} WHERE {} LIMIT 1)").format(self.only, same)


def _parameter(number: int) -> sql.SQL:
    return sql.SQL(f"${number}")
