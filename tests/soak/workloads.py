"""The load on the leader: beside the bank, tables whose every state can be told from a wrong one.

Each workload is one thread with transactions of its own kind, until it is held; `tests/soak/watch.py` knows what
must be true of what they write in every snapshot of a follower.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from tests.support.bank import BANK, Bank

SEATS = 24
DRAFTS = 20
DOCUMENTS = 60
NODES = 300

TABLES = (
    *BANK,
    # `sum` is the hash of `body`, whichever of them a transaction touched.
    "CREATE TABLE toasted (id int PRIMARY KEY, version int NOT NULL, sum text NOT NULL, body text NOT NULL)",
    "ALTER TABLE toasted ALTER body SET STORAGE EXTERNAL",
    "CREATE TABLE seat (id int PRIMARY KEY, place int UNIQUE, late_place int UNIQUE DEFERRABLE INITIALLY DEFERRED)",
    f"INSERT INTO seat SELECT i, i, i FROM generate_series(1, {SEATS}) i",
    "CREATE TABLE node (id bigint PRIMARY KEY, parent bigint REFERENCES node DEFERRABLE INITIALLY DEFERRED,"
    " label text NOT NULL)",
    "CREATE INDEX ON node (parent)",
    "CREATE TABLE tree (id int PRIMARY KEY, size bigint NOT NULL)",
    "INSERT INTO node VALUES (1, NULL, 'root')",
    "INSERT INTO tree VALUES (1, 1)",
    "CREATE TABLE cause (id bigint PRIMARY KEY)",
    "CREATE TABLE effect (id bigint PRIMARY KEY)",
    "CREATE TABLE batch (id bigint PRIMARY KEY, size int NOT NULL)",
    "CREATE TABLE item (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, batch bigint NOT NULL, body text)",
    "CREATE INDEX ON item (batch)",
    "CREATE TABLE draft (id int PRIMARY KEY, body text)",
    "CREATE TABLE bulk (id int PRIMARY KEY, state text NOT NULL, note text, amount numeric(12,2) NOT NULL)",
    "CREATE TABLE unkeyed (a int, b text)",
    "ALTER TABLE unkeyed REPLICA IDENTITY FULL",
)

Connection = psycopg.Connection[Any]
Transaction = Callable[[Connection, random.Random], None]


def churn(connection: Connection, chance: random.Random) -> None:
    """A large value is written, left alone by an update, moved to another key, deleted."""
    values = {"id": chance.randint(1, DOCUMENTS)}
    what = chance.random()
    if what < 0.5:
        connection.execute("UPDATE toasted SET version = version + 1 WHERE id %% 1000 = %(id)s", values)
    elif what < 0.7:
        # The key moves, the value stays where it is.
        connection.execute("UPDATE toasted SET id = (id + 1000) %% 2000 WHERE id %% 1000 = %(id)s", values)
    elif what < 0.75:
        connection.execute("DELETE FROM toasted WHERE id %% 1000 = %(id)s", values)
    else:
        body = {**values, "body": chance.randbytes(chance.choice((10, 2000, 30_000))).hex()}
        written = connection.execute(
            "UPDATE toasted SET sum = md5(%(body)s), body = %(body)s WHERE id %% 1000 = %(id)s", body
        )
        if not written.rowcount:
            connection.execute("INSERT INTO toasted VALUES (%(id)s, 1, md5(%(body)s), %(body)s)", body)


def swap(connection: Connection, chance: random.Random) -> None:
    """Two rows exchange what must be unique: by way of NULL, and in one statement where the check is deferred."""
    a, b = chance.sample(range(1, SEATS + 1), 2)
    places = dict(connection.execute("SELECT id, place FROM seat WHERE id IN (%s, %s) FOR UPDATE", (a, b)).fetchall())
    connection.execute("UPDATE seat SET place = NULL WHERE id = %s", (a,))
    connection.execute("UPDATE seat SET place = %s WHERE id = %s", (places[a], b))
    connection.execute("UPDATE seat SET place = %s WHERE id = %s", (places[b], a))
    c, d = chance.sample(range(1, SEATS + 1), 2)
    connection.execute(
        "UPDATE seat s SET late_place = o.late_place FROM seat o "
        "WHERE (s.id, o.id) IN ((%(c)s, %(d)s), (%(d)s, %(c)s))",
        {"c": c, "d": d},
    )


def grow(connection: Connection, chance: random.Random) -> None:
    """A branch comes, children before their parents; another moves, or goes with all below it."""
    size, newest = _row(connection, "SELECT size, (SELECT max(id) FROM node) FROM tree FOR UPDATE")
    if size < NODES and chance.random() < 0.6:
        count = chance.randint(1, 8)
        (under,) = _row(connection, "SELECT id FROM node ORDER BY md5((id + %s)::text) LIMIT 1", chance.randint(0, 999))
        for offset in range(count, 0, -1):
            parent = under if offset == 1 else newest + chance.randint(1, offset - 1)
            connection.execute("INSERT INTO node VALUES (%s, %s, %s)", (newest + offset, parent, f"n{offset}"))
        connection.execute("UPDATE tree SET size = size + %s", (count,))
    else:
        row = _row(connection, "SELECT max(id) FROM (SELECT id FROM node WHERE id > 1 ORDER BY random() LIMIT 1) x")
        if row[0] is None:
            return
        below = "WITH RECURSIVE below AS (SELECT %s::bigint AS id UNION ALL SELECT n.id FROM node n JOIN below b "
        below += "ON n.parent = b.id)"
        gone = connection.execute(f"{below} DELETE FROM node WHERE id IN (SELECT id FROM below)", (row[0],)).rowcount
        connection.execute("UPDATE tree SET size = size - %s", (gone,))


def act(connection: Connection, _chance: random.Random) -> None:
    """A cause, which `react` answers once it has read it."""
    connection.execute("INSERT INTO cause SELECT coalesce(max(id), 0) + 1 FROM cause")


def react(connection: Connection, _chance: random.Random) -> None:
    """In a later transaction of another session than the one that it has read from."""
    (newest,) = _row(connection, "SELECT max(id) FROM cause")
    connection.commit()
    if newest is not None:
        connection.execute(
            "INSERT INTO effect SELECT generate_series((SELECT coalesce(max(id), 0) + 1 FROM effect), %s)", (newest,)
        )


def save_points(connection: Connection, chance: random.Random) -> None:
    """Rows of which half are taken back before the commit, now and then with a prepare before it."""
    (id,) = _row(connection, "SELECT coalesce(max(id), 0) + 1 FROM batch")
    kept = 0
    for number in range(chance.randint(2, 10)):
        connection.execute("SAVEPOINT s")
        body = chance.randbytes(5000).hex() if number % 4 == 0 else f"item {number}"
        connection.execute("INSERT INTO item (batch, body) VALUES (%s, %s)", (id, body))
        if chance.random() < 0.5:
            connection.execute("ROLLBACK TO SAVEPOINT s")
        else:
            kept += 1
        connection.execute("RELEASE SAVEPOINT s")
    connection.execute("INSERT INTO batch VALUES (%s, %s)", (id, kept))
    if id > 500:
        connection.execute("DELETE FROM item WHERE batch = %s", (id - 500,))
        connection.execute("DELETE FROM batch WHERE id = %s", (id - 500,))


def prepare(connection: Connection, chance: random.Random) -> None:
    """A transaction in two phases; which of them a crash may come between is nobody's choice."""
    left = [name for (name,) in connection.execute("SELECT gid FROM pg_prepared_xacts").fetchall()]
    connection.commit()
    name = f"soak {chance.getrandbits(60)}"
    if not left:
        connection.execute("UPDATE draft SET body = %s WHERE id %% 3 = %s", (name, chance.randint(0, 2)))
        connection.execute(f"PREPARE TRANSACTION '{name}'")
        connection.commit()
        left = [name]
    connection.autocommit = True
    for one in left:
        connection.execute(f"{chance.choice(('COMMIT', 'ROLLBACK'))} PREPARED '{one}'")
    connection.autocommit = False


def empty_and_fill(connection: Connection, chance: random.Random) -> None:
    """TRUNCATE and the rows after it in one transaction; rows without a key, of which there are equals."""
    connection.execute("TRUNCATE draft")
    connection.execute(
        "INSERT INTO draft SELECT i, md5((i + %s)::text) FROM generate_series(1, %s) i",
        (chance.randint(0, 10**6), DRAFTS),
    )
    connection.execute(
        "INSERT INTO unkeyed VALUES (%(a)s, 'x'), (%(a)s, 'x'), (%(a)s, NULL)", {"a": chance.randint(1, 9)}
    )
    connection.execute(
        "DELETE FROM unkeyed WHERE ctid = (SELECT min(ctid) FROM unkeyed WHERE (SELECT count(*) FROM unkeyed) > 60)"
    )
    connection.execute("UPDATE unkeyed SET b = 'y' WHERE ctid = (SELECT max(ctid) FROM unkeyed)")


@dataclass(frozen=True, slots=True)
class Kind:
    """`pause_seconds` lie between two transactions."""

    transaction: Transaction
    pause_seconds: float


KINDS = (
    Kind(churn, 0.05),
    Kind(swap, 0.1),
    Kind(grow, 0.15),
    Kind(act, 0.08),
    Kind(react, 0.06),
    Kind(save_points, 0.25),
    Kind(prepare, 0.7),
    Kind(empty_and_fill, 0.5),
)
_BANK_PAUSE_SECONDS = 0.03


class Workers:
    """The threads of one stretch of load. A leader that goes away is waited for."""

    def __init__(self, leader: str, seed: str) -> None:
        self.committed = 0
        self._leader = leader
        self._stop = threading.Event()
        self._errors: list[BaseException] = []
        self._counting = threading.Lock()
        self._bank = Bank(leader, pause_seconds=_BANK_PAUSE_SECONDS, seed=random.Random(seed).getrandbits(32))
        self._threads = [
            threading.Thread(target=self._run, args=(kind, random.Random(f"{seed} {number}")), daemon=True,
                             name=kind.transaction.__name__)
            for number, kind in enumerate(KINDS)
        ]  # fmt: skip

    def start(self) -> None:
        self._bank.__enter__()
        for thread in self._threads:
            thread.start()

    def stop(self) -> int:
        """Between two transactions of each; how many were committed. Raises what one of them raised."""
        self._stop.set()
        self._bank.stop()
        for thread in self._threads:
            thread.join(30)
            if thread.is_alive():
                raise RuntimeError(f"the load {thread.name} does not end")
        if self._errors:
            raise self._errors[0]
        return self.transactions

    @property
    def transactions(self) -> int:
        return self.committed + self._bank.committed

    def check(self) -> None:
        """Raises what one of the threads raised."""
        if self._errors:
            raise self._errors[0]

    def _run(self, kind: Kind, chance: random.Random) -> None:
        try:
            while not self._stop.is_set():
                try:
                    self._session(kind, chance)
                except psycopg.OperationalError:
                    self._stop.wait(0.2)
        except BaseException as error:
            self._errors.append(error)

    def _session(self, kind: Kind, chance: random.Random) -> None:
        with psycopg.connect(self._leader, connect_timeout=5, application_name="soak load") as connection:
            while not self._stop.wait(chance.uniform(0.5, 1.5) * kind.pause_seconds):
                kind.transaction(connection, chance)
                connection.commit()
                with self._counting:
                    self.committed += 1


def giant(leader: str, rows: int, chance: random.Random) -> None:
    """One transaction that leaves `bulk` with `rows` rows, most of them written anew."""
    with psycopg.connect(leader, connect_timeout=5, application_name="soak load") as connection:
        connection.execute("DELETE FROM bulk WHERE id %% 3 = %s", (chance.randint(0, 2),))
        connection.execute("UPDATE bulk SET state = 'changed', amount = amount + 1 WHERE id % 2 = 0")
        connection.execute("DELETE FROM bulk WHERE id > %s", (rows,))
        connection.execute(
            "INSERT INTO bulk SELECT i, 'new', repeat(md5(i::text), 3), i * 0.01 FROM generate_series(1, %s) i "
            "ON CONFLICT DO NOTHING",
            (rows,),
        )


def add_column(leader: str, table: str, column: str, with_rows: bool) -> None:
    """A new column on the leader, in one transaction with rows that have a value in it, or without."""
    with psycopg.connect(leader, connect_timeout=5, application_name="soak load") as connection:
        connection.execute("SET LOCAL lock_timeout = '5s'")
        connection.execute(f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {column} text")
        if with_rows:
            connection.execute(f"UPDATE {table} SET {column} = md5(id::text) WHERE id % 3 = 0")


def add_column_here(follower: str, statements: Sequence[str], table: str, column: str) -> None:
    with psycopg.connect(follower, connect_timeout=5, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.execute(f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {column} text")


def _row(connection: Connection, query: str, *values: Any) -> tuple[Any, ...]:
    row: tuple[Any, ...] | None = connection.execute(query, values or None).fetchone()
    assert row is not None
    return row
