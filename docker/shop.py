"""The application of compose.yaml: `shop.py prepare` makes its tables where they lack, `shop.py write RATE` writes.

It finds the leader as every application may: libpq asks each node whether it takes writes.
"""

from __future__ import annotations

import itertools
import sys
import time
import uuid
from collections.abc import Sequence

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from cdc.config import load
from cdc.demo.load import Journal, Load
from cdc.demo.shop import schema_sql, seed_sql


def clients_dsn(dsns: Sequence[str]) -> str:
    """One dsn of all nodes, which leads to the one that takes writes."""
    hosts = ",".join(str(conninfo_to_dict(dsn)["host"]) for dsn in dsns)
    return make_conninfo(dsns[0], host=hosts, target_session_attrs="read-write")


def prepare(dsns: Sequence[str]) -> None:
    """A role on every node, since roles are not copied; tables and rows on the first of `dsns`, which leads."""
    for dsn in dsns:
        with psycopg.connect(dsn) as connection:
            if connection.execute("SELECT FROM pg_roles WHERE rolname = 'clerk'").fetchone() is None:
                connection.execute("CREATE ROLE clerk")
    with psycopg.connect(dsns[0]) as connection:
        if connection.execute("SELECT to_regclass('public.ledger')").fetchone() == (None,):
            connection.execute(schema_sql())
            connection.execute(seed_sql())


class Counter(Journal):
    """Remembers how many, not which: this load has no end."""

    def __init__(self) -> None:
        super().__init__()
        self.committed = itertools.count()

    def note(self, number: int, receipt: uuid.UUID, server: int, at: float) -> None:
        next(self.committed)


def write(dsn: str, rate: float) -> None:
    """Until it is ended; says each ten seconds how much that was."""
    counter = Counter()
    load = Load(dsn, rate, counter)
    load.start()
    for turn in itertools.count(1):
        time.sleep(max(0.0, 10 * turn - load.seconds))
        load.check()
        print(f"{next(counter.committed) - turn + 1} transactions committed", flush=True)


if __name__ == "__main__":
    settings = load(None)
    leader_first = sorted(settings.nodes, key=lambda name: name != settings.leader)
    dsns = [settings.dsn_of(name) for name in leader_first]
    if sys.argv[1] == "prepare":
        prepare(dsns)
    else:
        write(clients_dsn(dsns), float(sys.argv[2]))
