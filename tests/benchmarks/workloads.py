"""What the leader does before an engine gets it. Each workload can run alone: its tables are its own, or only
take rows that no other one writes."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import psycopg

from tests.benchmarks.report import NoResult

TABLE = """
CREATE TABLE {name} (
    id bigint PRIMARY KEY, customer int NOT NULL, state text NOT NULL, amount numeric(12,2) NOT NULL,
    note text, payload jsonb, at timestamptz NOT NULL)
"""
INSERT = """
INSERT INTO {name} SELECT i, i % 1000, 'new', i * 0.01, repeat(md5(i::text), 3),
    jsonb_build_object('k', i, 'tags', '["a", "b"]'::jsonb), {at} FROM generate_series({first}, {last}) AS i
"""
ROWS_A_TRANSACTION = 1_000
STOCK_ROWS = 1_000_000
PGBENCH_SCALE = 10
PGBENCH_CLIENTS = 4
_PGBENCH_SECONDS = 900

# Where the workloads' keys in `items` begin.
_SINGLES = 10_000_000
_BIG = 20_000_000


@dataclass(frozen=True)
class Leader:
    """Where a load goes."""

    dsn: str
    connection: psycopg.Connection
    programs: Path


Tables = Callable[[str, Path, float], None]
"""Makes tables, with the rows that they have from the beginning, the same on every node: dsn, programs, scale."""
Load = Callable[[Leader, int], str]
"""Returns the query that tells on a follower whether the last of it is there."""


@dataclass(frozen=True)
class Workload:
    name: str
    about: str
    count: int
    tables: Tables | None
    load: Load
    rows_each: int = 1
    progress: str | None = None
    """The query that tells on a follower how many of the rows are there, where an index knows."""

    def at(self, scale: float) -> int:
        """How much of it at a scale: whole transactions."""
        return max(int(self.count * scale) // ROWS_A_TRANSACTION, 1) * ROWS_A_TRANSACTION


def make_tables(workloads: Iterable[Workload], dsn: str, programs: Path, scale: float) -> None:
    items_table(dsn)
    for tables in dict.fromkeys(workload.tables for workload in workloads if workload.tables):
        tables(dsn, programs, scale)


def insert_rows(leader: psycopg.Connection, table: str, first: int, count: int, per_transaction: int) -> str:
    for start in range(first, first + count, per_transaction):
        last = min(start + per_transaction, first + count) - 1
        leader.execute(INSERT.format(name=table, first=start, last=last, at="now()").encode())
    return f"SELECT count(*) FROM {table} WHERE id = {first + count - 1}"


def items_table(dsn: str) -> None:
    """The warm-up's too."""
    with psycopg.connect(dsn) as connection:
        connection.execute(TABLE.format(name="items").encode())


def _stock_table(dsn: str, _programs: Path, scale: float) -> None:
    rows = max(int(STOCK_ROWS * scale), ROWS_A_TRANSACTION)
    with psycopg.connect(dsn) as connection:
        connection.execute(TABLE.format(name="stock").encode())
        connection.execute(INSERT.format(name="stock", first=0, last=rows - 1, at="'2026-01-01 00:00Z'").encode())


def _hot_table(dsn: str, _programs: Path, _scale: float) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute("CREATE TABLE hot (id int PRIMARY KEY, hits bigint NOT NULL, note text NOT NULL)")
        connection.execute("INSERT INTO hot SELECT i, 0, repeat(md5(i::text), 3) FROM generate_series(1, 100) AS i")


def _inserts(leader: Leader, count: int) -> str:
    return insert_rows(leader.connection, "items", 0, count, ROWS_A_TRANSACTION)


def _one_transaction(leader: Leader, count: int) -> str:
    return insert_rows(leader.connection, "items", _BIG, count, count)


def _updates(leader: Leader, count: int) -> str:
    state = f"paid {time.monotonic_ns()}"
    for start in range(0, count, ROWS_A_TRANSACTION):
        leader.connection.execute(
            "UPDATE stock SET state = %s, amount = amount + 1, at = now() WHERE id BETWEEN %s AND %s",
            (state, start, start + ROWS_A_TRANSACTION - 1),
        )
    return f"SELECT count(*) FROM stock WHERE id = {count - 1} AND state = '{state}'"


def _singles(leader: Leader, count: int) -> str:
    _commit_each(
        leader, count, INSERT.format(name="items", first=f"{_SINGLES} + n", last=f"{_SINGLES} + n", at="now()")
    )
    return f"SELECT count(*) FROM items WHERE id = {_SINGLES + count}"


def _hot(leader: Leader, count: int) -> str:
    return _hit(leader, 1, count, 1)


def _hot_batches(leader: Leader, count: int) -> str:
    return _hit(leader, 2, count, ROWS_A_TRANSACTION)


def _hit(leader: Leader, row: int, count: int, per_transaction: int) -> str:
    _commit_each(leader, count, f"UPDATE hot SET hits = hits + 1 WHERE id = {row}", per_transaction)
    return f"SELECT count(*) FROM hot WHERE id = {row} AND hits = {count}"


def _commit_each(leader: Leader, count: int, statement: str, per_transaction: int = 1) -> None:
    """On the server, and without waiting for the disk: the load is not what is measured."""
    loop = f"FOR n IN 1..{count} LOOP {statement}; IF n % {per_transaction} = 0 THEN COMMIT; END IF; END LOOP;"
    leader.connection.execute("SET synchronous_commit = off")
    leader.connection.execute(f"DO $$ BEGIN {loop} END $$".encode())
    leader.connection.execute("RESET synchronous_commit")


def pgbench_tables(dsn: str, programs: Path, _scale: float) -> None:
    _pgbench(programs, "--initialize", "--init-steps=dtGp", f"--scale={PGBENCH_SCALE}", "--quiet", dsn)
    with psycopg.connect(dsn) as connection:
        # As it is made it has no key, which an upsert needs; and Debezium's sink, with its arrays, cannot write the
        # other timestamp (3.5.0: "date/time field value out of range").
        connection.execute(
            "ALTER TABLE pgbench_history ADD id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,"
            " ALTER mtime TYPE timestamptz"
        )


def _tpcb(leader: Leader, count: int) -> str:
    _pgbench(
        leader.programs, "--no-vacuum", "--protocol=prepared", f"--client={PGBENCH_CLIENTS}",
        f"--transactions={count // PGBENCH_CLIENTS}", leader.dsn, PGOPTIONS="-c synchronous_commit=off",
    )  # fmt: skip
    return mark_tpcb(leader.connection)


def tpcb_rate(leader: Leader, seconds: int) -> float:
    """Transactions a second that the leader does for clients who wait for each commit."""
    told = _pgbench(
        leader.programs, "--no-vacuum", "--protocol=prepared", f"--client={PGBENCH_CLIENTS}", f"--time={seconds}",
        leader.dsn,
    )  # fmt: skip
    found = re.search(r"^tps = ([\d.]+)", told, re.MULTILINE)
    if not found:
        raise NoResult(f"pgbench told no rate: {told}")
    return float(found[1])


def mark_tpcb(leader: psycopg.Connection) -> str:
    """One more transaction, which shows in each of the four tables: not every engine keeps their order."""
    mark = str(time.monotonic_ns())
    keys = {"accounts": "aid", "tellers": "tid", "branches": "bid"}
    with leader.transaction():
        for table, key in keys.items():
            leader.execute(f"UPDATE pgbench_{table} SET filler = '{mark}' WHERE {key} = 1".encode())
        row = leader.execute(
            "INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (1, 1, 1, 0, now()) RETURNING id"
        ).fetchone()
    assert row
    shown = [f"(SELECT filler = '{mark}' FROM pgbench_{table} WHERE {key} = 1)" for table, key in keys.items()]
    return f"SELECT {' AND '.join(shown)} AND EXISTS (SELECT FROM pgbench_history WHERE id = {row[0]})"


def _pgbench(programs: Path, *arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [programs / "pgbench", *arguments], env={**os.environ, **environment}, capture_output=True, text=True,
        check=False, timeout=_PGBENCH_SECONDS,
    )  # fmt: skip
    if done.returncode:
        raise NoResult(f"pgbench failed: {done.stderr.strip()}")
    return done.stdout


def _rows_from(first: int) -> str:
    return f"SELECT coalesce(max(id) + 1 - {first}, 0) FROM items WHERE id >= {first} AND id < {first + 10_000_000}"


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("inserts", "1,000 rows a transaction", 300_000, None, _inserts, progress=_rows_from(0)),
        Workload("updates", "1,000 of a million rows a transaction", 300_000, _stock_table, _updates),
        Workload("singles", "one inserted row a transaction", 100_000, None, _singles,
                 progress=_rows_from(_SINGLES + 1)),
        Workload("big", "all rows inserted in one transaction", 1_000_000, None, _one_transaction),
        Workload("tpcb", "pgbench's TPC-B, four changes a transaction", 25_000, pgbench_tables, _tpcb, rows_each=4),
        Workload("hot", "one row updated again and again, each time in a transaction of its own", 100_000, _hot_table,
                 _hot),
        Workload("hot-batches", "one row updated again and again, 1,000 times a transaction", 100_000, _hot_table,
                 _hot_batches),
    )
}  # fmt: skip
