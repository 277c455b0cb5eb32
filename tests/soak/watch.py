"""Looks at every follower all the time, as its readers do, for what no state of the leader was."""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

import psycopg

from tests.soak.findings import Findings
from tests.soak.schedule import GIANT_SIZES
from tests.soak.workloads import SEATS
from tests.support.bank import TOTAL

_EVERY_SECONDS = 0.3
_LEDGER_WINDOW = 2_000
"""Entries of the ledger that each look counts again; all of them are compared at rest."""
_EFFECTS_WINDOW = 500

_LOOK = f"""
SELECT
    (SELECT (commit_lsn - '0/0'::pg_lsn)::bigint FROM cdc.position) AS lsn,
    (SELECT n FROM counter) AS n,
    (SELECT sum(balance) FROM account) AS total,
    (SELECT count(*) FROM ledger WHERE n > %(base)s) AS entries,
    (SELECT coalesce(max(n), 0) FROM ledger) AS newest_entry,
    (SELECT count(*) FROM toasted WHERE md5(body) <> sum) AS torn_documents,
    (SELECT count(DISTINCT place) FROM seat) AS places,
    (SELECT count(DISTINCT late_place) FROM seat) AS late_places,
    (SELECT size FROM tree) AS tree_size,
    (SELECT count(*) FROM node) AS nodes,
    (SELECT count(*) FROM node n WHERE parent IS NOT NULL
        AND NOT EXISTS (SELECT FROM node p WHERE p.id = n.parent)) AS orphans,
    (SELECT count(*) FROM effect e WHERE id > (SELECT max(id) - {_EFFECTS_WINDOW} FROM effect)
        AND NOT EXISTS (SELECT FROM cause c WHERE c.id = e.id)) AS effects_without_cause,
    (SELECT count(*) FROM batch b WHERE id > (SELECT max(id) - 30 FROM batch)
        AND size <> (SELECT count(*) FROM item i WHERE i.batch = b.id)) AS torn_batches,
    (SELECT count(*) FROM bulk) AS bulk
"""


class Look(NamedTuple):
    """One snapshot; the fields are the columns of the query."""

    lsn: int
    n: int
    total: Any
    entries: int
    newest_entry: int
    torn_documents: int
    places: int
    late_places: int
    tree_size: int
    nodes: int
    orphans: int
    effects_without_cause: int
    torn_batches: int
    bulk: int

    def wrongs(self, base: int) -> list[str]:
        """What was true in no state of the leader; the look counted entries of the ledger after `base`."""
        found = []
        if self.total != TOTAL:
            found.append(f"the accounts hold {self.total}, not {TOTAL}")
        if (self.entries, self.newest_entry) != (max(0, self.n - base), self.n):
            found.append(
                f"the counter says {self.n}, the ledger has {self.entries} entries after {base}, "
                f"the newest {self.newest_entry}"
            )
        if self.torn_documents:
            found.append(f"{self.torn_documents} large values are not those that their hash is of")
        if (self.places, self.late_places) != (SEATS, SEATS):
            found.append(f"{SEATS} seats are at {self.places} and {self.late_places} places")
        if self.orphans or self.nodes != self.tree_size:
            found.append(f"a tree of {self.tree_size} has {self.nodes} nodes, {self.orphans} without their parent")
        if self.effects_without_cause:
            found.append(f"{self.effects_without_cause} effects are there without their cause")
        if self.torn_batches:
            found.append(f"{self.torn_batches} batches have not the rows that they say")
        if self.bulk not in (0, *GIANT_SIZES):
            found.append(f"a part of a giant transaction is visible: {self.bulk} rows")
        return found


class FollowerWatch:
    """One follower's. Progress must not go back, except over a crash of the follower, which takes back what it had
    not flushed: it ends the session of this watch, too."""

    def __init__(self, name: str, dsn: str, findings: Findings) -> None:
        self.name = name
        self.position = 0
        """Commit LSN of the newest transaction that was seen here."""
        self.snapshots = 0
        self._dsn = dsn
        self._findings = findings
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"watch {name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(30)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._session()
            except psycopg.OperationalError:
                self._stop.wait(0.3)
            except Exception as error:
                self._findings.violation(f"{self.name}: a reader got {type(error).__name__}: {error}")
                return

    def _session(self) -> None:
        with psycopg.connect(self._dsn, connect_timeout=5, application_name="soak watch") as connection:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            connection.read_only = True
            newest = (0, 0)
            while not self._stop.wait(_EVERY_SECONDS):
                newest = self._look(connection, newest)
                connection.rollback()

    def _look(self, connection: psycopg.Connection[Any], newest: tuple[int, int]) -> tuple[int, int]:
        base = max(0, newest[1] - _LEDGER_WINDOW)
        row = connection.execute(_LOOK, {"base": base}).fetchone()
        assert row is not None
        look = Look(*row)
        progress = (look.lsn, look.n)
        wrongs = look.wrongs(base)
        if look.lsn < newest[0] or look.n < newest[1]:
            wrongs.append(f"went back from {newest} to {progress}")
        for wrong in wrongs:
            self._findings.violation(f"{self.name} at {look.lsn}: {wrong}")
        self.snapshots += 1
        self.position = look.lsn
        return progress
