"""What a published table looks like, as the log describes it (a `schema` record a relation)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any, NamedTuple

import orjson


class TableId(NamedTuple):
    """A table by schema and name, both as PostgreSQL stores them (unquoted)."""

    schema: str
    name: str

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


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
        columns = tuple(Column(str(n), str(t), int(m), bool(k)) for n, t, m, k in data["columns"])
        return cls(TableId(str(data["schema"]), str(data["table"])), ReplicaIdentity(data["identity"]), columns)
