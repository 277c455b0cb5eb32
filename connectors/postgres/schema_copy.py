"""The leader's schema on the follower: copied by pg_dump in two sections, or compared with what is there."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import psycopg

from cdc.copy_ports import Build
from cdc.errors import CheckError
from cdc.events.table import TableId
from connectors.postgres.copy_plan import COLUMNS_OF

DUMP = ("--schema-only", "--verbose", "--exclude-schema=cdc", "--no-publications", "--no-subscriptions",
        "--no-tablespaces")  # fmt: skip

_ENTRY = re.compile(
    r"^--\n-- TOC entry \d+ \(class \d+ OID \d+\)\n(?:-- Dependencies: [\d ]+\n)?"
    r"-- Name: (?P<name>.*); Type: (?P<kind>[A-Z ]+); Schema: .*\n--\n",
    re.MULTILINE,
)
"""What pg_dump --verbose writes before each object; the numbers are those of the leader's catalog."""
_END = re.compile(r"^-- Completed on [^\n]*\n|^--\n-- PostgreSQL database dump complete\n--\n", re.MULTILINE)

_TOGETHER = {"INDEX": "index", "CONSTRAINT": "index", "FK CONSTRAINT": "reference"}
"""Kinds that may be made at the same time as others of the same class."""

_SHAPE = f"""
SELECT n.nspname, relname, attname,
       concat_ws(' ', tn.nspname || '.' || typname, nullif(atttypmod, -1), CASE WHEN attnotnull THEN 'NOT NULL' END,
                 CASE attgenerated WHEN 's' THEN 'GENERATED STORED' WHEN 'v' THEN 'GENERATED VIRTUAL' END,
                 CASE WHEN attidentity <> '' THEN 'IDENTITY' END,
                 (SELECT 'KEY ' || array_position(indkey::int2[], attnum) FROM pg_index
                  WHERE indrelid = c.oid AND indisprimary AND attnum = ANY (indkey::int2[])))
{COLUMNS_OF}
"""  # noqa: S608 - a constant


def builds_of(dump: str) -> list[list[Build]]:
    """The objects of a dump of the section post-data, in pg_dump's order, which follows what depends on what.

    Neighbours of a kind that may be made at the same time are one group.
    """
    groups: list[list[Build]] = []
    before: str | None = None
    for number, (name, kind, statement) in enumerate(_entries(dump)):
        build = Build(number, kind, name, statement)
        together = _TOGETHER.get(kind)
        if together is not None and together == before:
            groups[-1].append(build)
        else:
            groups.append([build])
        before = together
    return groups


def _entries(dump: str) -> Iterator[tuple[str, str, str]]:
    found = list(_ENTRY.finditer(dump))
    for at, entry in enumerate(found):
        end = found[at + 1].start() if at + 1 < len(found) else None
        body = dump[entry.end() : end]
        if end is None:
            last = list(_END.finditer(body))
            body = body[: last[0].start()] if last else body
        if body.strip():
            yield entry["name"], entry["kind"], body.strip()


def check_same_shape(
    leader: psycopg.Connection, follower: psycopg.Connection, tables: Sequence[TableId], node: str
) -> None:
    """Raises CheckError when a table is missing on the follower, or a column or the primary key is another one."""
    there, here = _shape(leader, tables), _shape(follower, tables)
    unlike = [
        f"{table}.{column} is {here.get((table, column), 'missing')}, on the leader {kind}"
        for (table, column), kind in there.items()
        if here.get((table, column)) != kind
    ]
    tables_there = {table for table, _ in there}
    unlike += [
        f"{table}.{column} is not on the leader"
        for table, column in here
        if table in tables_there and (table, column) not in there
    ]
    if unlike:
        shown = "; ".join(unlike[:5]) + (f"; and {len(unlike) - 5} more" if len(unlike) > 5 else "")
        raise CheckError(
            f"the schema differs: {shown}", "make it that of the leader, or use --schema copy or --schema none", node
        )


def _shape(connection: psycopg.Connection, tables: Sequence[TableId]) -> dict[tuple[TableId, str], str]:
    rows = connection.execute(_SHAPE, ([t.schema for t in tables], [t.name for t in tables])).fetchall()
    return {(TableId(schema, table), column): kind for schema, table, column, kind in rows}
