"""What is in a database, as text that depends on the rows only."""

from __future__ import annotations

import psycopg
from psycopg import sql

PINNED = " ".join(
    f"-c {name}={value}"
    for name, value in {
        "DateStyle": "ISO",
        "IntervalStyle": "postgres",
        "TimeZone": "UTC",
        "extra_float_digits": "3",
        "bytea_output": "hex",
        "lc_monetary": "C",
        "quote_all_identifiers": "off",
        "search_path": "pg_catalog",
    }.items()
)
_TABLES = """
SELECT nspname, relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
WHERE relkind = 'r' AND relpersistence = 'p' AND nspname NOT IN ('information_schema', 'cdc') AND nspname !~ '^pg_'
ORDER BY 1, 2
"""
# A name that no column has: a column named like the alias would win.
_ROW = sql.Identifier("the whole row")


def digests(dsn: str, prefix: str | tuple[str, ...] = "") -> dict[str, tuple[int, str | None]]:
    """Number of rows and a hash over their text, by table (schema.table); of all whose name begins with
    `prefix`, or one of several."""
    found: dict[str, tuple[int, str | None]] = {}
    with psycopg.connect(dsn, autocommit=True, options=PINNED) as connection:
        for schema, name in connection.execute(_TABLES).fetchall():
            table = f"{schema}.{name}"
            if not table.startswith(prefix):
                continue
            query = sql.SQL(
                "SELECT count(*), md5(string_agg(h, '' ORDER BY h)) "
                "FROM (SELECT md5(convert_to({row}::text, 'UTF8')) AS h FROM ONLY {table} AS {row}) x"
            ).format(row=_ROW, table=sql.Identifier(schema, name))
            row = connection.execute(query).fetchone()
            assert row is not None
            found[table] = row
    return found


def contents(dsn: str, table: str) -> list[str]:
    """The rows of a table (not of those that inherit from it), each as its text, in an order of their own."""
    query = sql.SQL('SELECT {row}::text FROM ONLY {table} AS {row} ORDER BY {row}::text COLLATE "C"')
    with psycopg.connect(dsn, autocommit=True, options=PINNED) as connection:
        for schema, name in connection.execute(_TABLES).fetchall():
            if f"{schema}.{name}" == table:
                statement = query.format(row=_ROW, table=sql.Identifier(schema, name))
                return [text for (text,) in connection.execute(statement)]
    return ["there is no such table"]
