"""What a leader can do to its rows: tables, and the transactions that test_fidelity.py runs on them.

The cases of fidelity.sql, and three for each group of types: rows with a key, rows that only the whole row
finds, and values of the type as key.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.support.values import VALUES, columns_of, longest, rows

NOISE = (
    "CREATE FUNCTION public.noise(seed text, pieces int) RETURNS text LANGUAGE sql AS $$ "
    "SELECT string_agg(md5(seed || '/' || g), '') FROM generate_series(1, pieces) g $$"
)


@dataclass(frozen=True)
class Case:
    """`name` begins the name of each of its tables. `setup` is run before the group exists; each element of
    what `transactions` returns for a number of rows is one transaction."""

    name: str
    setup: str
    transactions: Callable[[int], list[str]]
    first_version: int = 0
    last_version: int = 99

    def runs_on(self, version: int) -> bool:
        return self.first_version <= version <= self.last_version


def read_cases(file: Path) -> list[Case]:
    """See the head of fidelity.sql."""
    cases = []
    for text in file.read_text().split("\n-- case ")[1:]:
        setup, *transactions = text.split("\n-- transaction\n")
        head, _, ddl = setup.partition("\n")
        name, *rest = head.split()
        limits = dict(zip(rest[::2], map(int, rest[1::2]), strict=True))
        cases.append(Case(name, ddl, _sized(transactions), limits.get("from", 0), limits.get("until", 99)))
    return cases


def _sized(transactions: list[str]) -> Callable[[int], list[str]]:
    return lambda count: [text.replace(":n", str(count)) for text in transactions]


def type_cases() -> list[Case]:
    return [case for group in VALUES for case in (_with_key(group), _whole_rows(group), _as_key(group)) if case]


def _with_key(group: str) -> Case:
    table, columns = f"type_{group}", columns_of(group)
    names = ", ".join(columns)

    def transactions(count: int) -> list[str]:
        total = max(count, longest(group))
        return [
            _insert(table, names, rows(group, total)),
            f"UPDATE {table} t SET ({names}) = (SELECT {names} FROM {table} s WHERE s.i = (t.i + 1) % {total})",
            f"DELETE FROM {table} WHERE i % 5 = 0",
        ]

    return Case(table, f"CREATE TABLE {table} (i int PRIMARY KEY, {_definitions(columns)})", transactions)


def _whole_rows(group: str) -> Case:
    """Three rows of each kind, of which one is changed and one deleted."""
    table, columns = f"whole_{group}", columns_of(group)

    def transactions(count: int) -> list[str]:
        insert = _insert(table, ", ".join(columns), rows(group, max(count // 3, longest(group))))
        first, last = (f"ctid IN (SELECT {which}(ctid) FROM {table} GROUP BY i)" for which in ("min", "max"))
        return [
            f"{insert}; {insert}; {insert}",
            f"UPDATE {table} SET i = i + 1000 WHERE {first}",
            f"DELETE FROM {table} WHERE {last}",
        ]

    ddl = f"CREATE TABLE {table} (i int, {_definitions(columns)}); ALTER TABLE {table} REPLICA IDENTITY FULL"
    return Case(table, ddl, transactions)


def _as_key(group: str) -> Case | None:
    """Part of a key with a number, so that values need not be unique. None where no type can be a key."""
    table, columns = f"key_{group}", columns_of(group, keys_only=True)
    keys = ", ".join(columns)
    if not columns:
        return None

    def transactions(count: int) -> list[str]:
        total = max(count, longest(group))
        return [
            _insert(table, keys, rows(group, total, keys_only=True)),
            f"UPDATE {table} SET v = i",
            f"UPDATE {table} SET i = i + 1000 WHERE i % 2 = 0",
            f"INSERT INTO {table} (i, {keys}) SELECT i - 5000, {keys} FROM {table}",
            f"DELETE FROM {table} WHERE i % 3 = 0",
        ]

    ddl = f"CREATE TABLE {table} ({_definitions(columns)}, i int, v int, PRIMARY KEY ({keys}, i))"
    return Case(table, ddl, transactions)


def _definitions(columns: dict[str, str]) -> str:
    return ", ".join(f"{name} {kind}" for name, kind in columns.items())


def _insert(table: str, names: str, cells: list[list[str]]) -> str:
    values = ", ".join(f"({number}, {', '.join(row)})" for number, row in enumerate(cells))
    return f"INSERT INTO {table} (i, {names}) VALUES {values}"
