"""Many small transactions, so fast that capture lets their messages gather."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

import psycopg

TABLE = "CREATE TABLE t (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY)"
BURST = "DO $$ BEGIN FOR n IN 1..{} LOOP INSERT INTO t SELECT FROM generate_series(1, {}); COMMIT; END LOOP; END $$"
COMMITS = 5
_PAUSE_SECONDS = 0.005


class Committing:
    """A load, while the `with` lasts. A walsender sends nothing that is not flushed, which without synchronous_commit
    takes a while."""

    def __init__(self, leader: str, clients: int = 1, rows: int = 30) -> None:
        """Of so many rows a transaction."""
        self.rows = 0
        """That are committed."""
        self._clients = clients
        self._burst, self._burst_rows = BURST.format(COMMITS, rows), COMMITS * rows
        self._leader = leader
        self._enough = threading.Event()
        self._counting = threading.Lock()
        self._threads = ThreadPoolExecutor(clients)

    def __enter__(self) -> Self:
        self._work = [self._threads.submit(self._commit) for _ in range(self._clients)]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._enough.set()
        self._threads.shutdown()

    def end(self) -> int:
        """How many rows were committed."""
        self._enough.set()
        for work in self._work:
            work.result()
        return self.rows

    def _commit(self) -> None:
        with psycopg.connect(self._leader, autocommit=True) as connection:
            while not self._enough.wait(_PAUSE_SECONDS):
                connection.execute(self._burst.encode())
                with self._counting:
                    self.rows += self._burst_rows
