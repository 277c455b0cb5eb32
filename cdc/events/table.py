"""What a published table looks like, as the log describes it (a `schema` record a relation)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any, NamedTuple

import orjson


class TableId(NamedTuple):
    """A table by schema and name, both as PostgreSQL stores them (unquoted)."""

    schema: str
    name: str

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


def matches(table: TableId, patterns: Iterable[str]) -> bool:
    """Whether one of the patterns does. Like fnmatch, but schema and table apart: a name may hold a dot."""
    for pattern in patterns:
        schema, _, name = pattern.partition(".")
        if fnmatchcase(table.schema, schema) and fnmatchcase(table.name, name):
            return True
    return False


def is_publishable(table: TableId) -> bool:
    """Whether it can be a table of the application: not of PostgreSQL itself, and not our bookkeeping."""
    return (
        all(type(name) is str and name and "\0" not in name for name in table)
        and not table.schema.startswith("pg_")
        and table.schema not in ("cdc", "information_schema")
    )


class ReplicaIdentity(Enum):
    """Which old columns UPDATE and DELETE carry (`pg_class.relreplident`)."""

    DEFAULT = "d"
    NOTHING = "n"
    FULL = "f"
    INDEX = "i"


@dataclass(frozen=True, slots=True)
class Column:
    """`type` is schema-qualified, because type OIDs differ between databases."""

    name: str
    type: str
    typmod: int
    key: bool


@dataclass(frozen=True)
class TableSchema:
    """Columns in the order of the leader's relation; generated columns are not published.

    `key` flags come from the replica identity. Under FULL every column carries the flag, which
    says what is sent, not what is unique: `key_columns` is then empty.
    """

    table: TableId
    identity: ReplicaIdentity
    columns: tuple[Column, ...]

    @cached_property
    def key_columns(self) -> tuple[str, ...]:
        """Names of the columns that find a row; empty when only the whole row can."""
        if self.identity in (ReplicaIdentity.FULL, ReplicaIdentity.NOTHING):
            return ()
        return tuple(column.name for column in self.columns if column.key)

    @cached_property
    def column_names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    @cached_property
    def fingerprint(self) -> str:
        """Names this very shape of this table in every event (`cdc.rel`)."""
        return hashlib.sha256(orjson.dumps(self.to_json())).hexdigest()[:12]

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": self.table.schema,
            "table": self.table.name,
            "identity": self.identity.value,
            "columns": [[c.name, c.type, c.typmod, c.key] for c in self.columns],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> TableSchema:
        """Raises KeyError, TypeError or ValueError when `data` is not what `to_json` wrote."""
        columns = tuple(Column(name, kind, typmod, key) for name, kind, typmod, key in data["columns"])
        schema = cls(TableId(data["schema"], data["table"]), ReplicaIdentity(data["identity"]), columns)
        if not all(map(_is_column, columns)) or len({column.name for column in columns}) != len(columns):
            raise ValueError("not columns of a table")
        return schema


def _is_column(column: Column) -> bool:
    return (
        all(type(text) is str and text and "\0" not in text for text in (column.name, column.type))
        and all(column.type.partition("."))
        and type(column.typmod) is int
        and -(2**31) <= column.typmod < 2**31
        and type(column.key) is bool
    )
