"""Transactions that are due at fixed times on the leader, and a reader that looks for them on a follower.

Each runs in a process of its own, so that neither waits for the other's interpreter. Their clock is the machine's
(CLOCK_MONOTONIC). A transaction is started when it is due, or as soon as one of the connections is free; what is
late does not move what comes after it.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import LiteralString

import psycopg

from tests.benchmarks.figures import schedule
from tests.benchmarks.workloads import INSERT, TABLE

WRITERS = 8
LOOK_SECONDS = 0.001
"""Between two looks of the reader."""
_UPDATED = 99_999
"""Rows that are updated in turn; a multiple of what one transaction updates."""
_ARRIVALS = "CREATE TABLE arrivals (id bigint PRIMARY KEY, note text NOT NULL)"
_ARRIVE: LiteralString = "INSERT INTO arrivals VALUES (%(number)s, repeat(md5(%(number)s::text), 6))"
_MIXED: LiteralString = f"""
WITH arrived AS ({_ARRIVE}),
inserted AS (INSERT INTO mixed SELECT i, i %% 1000, 'new', i * 0.01, repeat(md5(i::text), 3), '{{"k": 1}}', now()
    FROM generate_series(1000000 + %(number)s * 5, 1000004 + %(number)s * 5) AS i),
updated AS (UPDATE mixed SET state = 'paid', amount = amount + 1, at = now()
    WHERE id BETWEEN %(number)s * 3 %% {_UPDATED} AND %(number)s * 3 %% {_UPDATED} + 2),
deleted AS (DELETE FROM mixed WHERE id = -1 - %(number)s)
SELECT
"""


@dataclass(frozen=True)
class Load:
    """Transactions a second; each has one row of `arrivals`, by whose number it is known."""

    about: str
    rate: float
    statement: LiteralString
    make_tables: Callable[[psycopg.Connection, int], None]


def _arrivals(connection: psycopg.Connection, _count: int) -> None:
    connection.execute(_ARRIVALS)


def _arrivals_and_mixed(connection: psycopg.Connection, count: int) -> None:
    connection.execute(_ARRIVALS)
    connection.execute(TABLE.format(name="mixed").encode())
    rows = INSERT.format(name="mixed", first=-count, last=_UPDATED - 1, at="'2026-01-01 00:00Z'")
    connection.execute(rows.encode())


LOADS = {
    "singles": Load("1,000 transactions a second, each one inserted row", 1_000.0, _ARRIVE, _arrivals),
    "mixed": Load("10,000 rows a second, ten a transaction: six inserts, three updates, a delete", 1_000.0, _MIXED,
                  _arrivals_and_mixed),
}  # fmt: skip


def write(dsn: str, load: str, seconds: float, begins: float) -> list[float]:
    """When each commit returned."""
    due = [begins + at for at in schedule(LOADS[load].rate, seconds)]
    returned = [0.0] * len(due)
    numbers = itertools.count()

    def writer() -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            for number in _below(len(due), numbers):
                time.sleep(max(due[number] - time.monotonic(), 0.0))
                connection.execute(LOADS[load].statement, {"number": number})
                returned[number] = time.monotonic()

    with ThreadPoolExecutor(WRITERS) as pool:
        for done in [pool.submit(writer) for _ in range(WRITERS)]:
            done.result()
    return returned


def _below(end: int, numbers: Iterator[int]) -> Iterator[int]:
    return itertools.takewhile(lambda number: number < end, numbers)


def read(dsn: str, count: int, until: float) -> list[float]:
    """When each was seen; 0.0 of those that were not by then."""
    seen = [0.0] * count
    missing, first_missing = count, 0
    with psycopg.connect(dsn, autocommit=True) as connection:
        while missing and time.monotonic() < until:
            # Commits of several connections come in another order than their numbers.
            rows = connection.execute("SELECT id FROM arrivals WHERE id >= %s", (first_missing,)).fetchall()
            now = time.monotonic()
            for (number,) in rows:
                if not seen[number]:
                    seen[number] = now
                    missing -= 1
            while first_missing < count and seen[first_missing]:
                first_missing += 1
            time.sleep(LOOK_SECONDS)
    return seen
