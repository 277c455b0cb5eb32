"""All rows of all tables of two databases, byte for byte."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import psycopg
from psycopg import sql

_PINNED = (
    "-c DateStyle=ISO -c IntervalStyle=postgres -c TimeZone=UTC -c extra_float_digits=3 -c bytea_output=hex "
    "-c search_path=pg_catalog"
)
"""Text is compared, so both sessions must print alike, whatever their servers are set to."""

_TABLES = """
SELECT relname, array_agg(attname::text ORDER BY attnum)
FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped
WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
GROUP BY relname ORDER BY relname
"""


@dataclass(frozen=True)
class TableDigest:
    """SHA-256 over every row's text, in the order of that text."""

    columns: tuple[str, ...]
    rows: int
    sha256: str


def digests(dsn: str) -> dict[str, TableDigest]:
    """Of every table in the schema public, all from one snapshot. Raises psycopg.Error."""
    return dict(_each_digest(dsn))


def _each_digest(dsn: str) -> Iterator[tuple[str, TableDigest]]:
    with psycopg.connect(dsn, options=_PINNED, client_encoding="utf8") as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        for table, columns in connection.execute(_TABLES).fetchall():
            yield table, _digest(connection, table, tuple(columns))


def differing(leader: Mapping[str, TableDigest], follower: Mapping[str, TableDigest]) -> list[str]:
    """Names of the tables that are not the same in both, or only in one."""
    return sorted(name for name in leader.keys() | follower.keys() if leader.get(name) != follower.get(name))


def _digest(connection: psycopg.Connection, table: str, columns: tuple[str, ...]) -> TableDigest:
    texts = [sql.SQL("{}::text COLLATE {}").format(sql.Identifier(name), sql.Identifier("C")) for name in columns]
    order = sql.SQL(", ").join(sql.Literal(number) for number in range(1, len(columns) + 1))
    query = sql.SQL("COPY (SELECT {} FROM {} ORDER BY {}) TO STDOUT").format(
        sql.SQL(", ").join(texts), sql.Identifier("public", table), order
    )
    rows, digest = 0, hashlib.sha256()
    with connection.cursor().copy(query) as lines:
        for line in lines:  # one a row; a null is \N there, an empty string nothing
            rows += 1
            digest.update(line)
    return TableDigest(columns, rows, digest.hexdigest())
