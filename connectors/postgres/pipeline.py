"""HOT PATH: several statements with their values in one round trip, each planned once a session.

The pipeline of libpq (PostgreSQL manual, "Pipeline Mode") without psycopg's layers around it, which take some 60 us a
statement. The server passes over what follows a statement that fails. COPY has no place in a pipeline: see script.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import psycopg
from psycopg.abc import PQGen
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGconn, PGresult

from connectors.postgres.connection import WatchedConnection
from connectors.postgres.script import CHUNK_BYTES, Outcome, Step, begun, next_result, run_to_end, sent, use_the_time

_MOST_PREPARED = 400
"""Each takes some 20 kB of the server's memory, and one of a partitioned table some kB more a partition."""
_PLANS_LAST_SECONDS = 30.0
"""A plan from when a table was empty may soon be a bad one, and often nothing tells the server to make it anew."""
_SLOW_SECONDS = 0.1
"""It may be that already when a round trip takes so long, next to which new plans are nothing."""


class Pipeline:
    """The prepared statements of one connection. psycopg prepares none on it, as it would drop ours with its own."""

    def __init__(self, connection: WatchedConnection) -> None:
        connection.prepare_threshold = None
        self._connection = connection
        self._names: dict[bytes, bytes] = {}
        """Of the statements that the server has, by their text."""
        self._number = 0
        self._since = time.monotonic()

    def play(self, steps: Sequence[Step], meanwhile: Callable[[], bool] = lambda: False) -> Outcome:
        """Run `steps`, none of them a COPY, in the transaction that is open, or in one that begins with them.
        `meanwhile` is called again and again, until it returns False, while the server works.

        Raises psycopg.Error for a lost connection.
        """
        began = time.monotonic()
        if len(self._names) > _MOST_PREPARED or began - self._since > _PLANS_LAST_SECONDS:
            self.forget()
        outcome = begun(self._connection, steps, lambda all_steps: self._played(all_steps, meanwhile))
        if time.monotonic() - began > _SLOW_SECONDS:
            self._since = -_PLANS_LAST_SECONDS
        return outcome

    def forget(self) -> None:
        """Let the statements be planned anew, also for what the types of their parameters are: the server keeps these
        of a statement that it has, whatever a column has become. Raises psycopg.Error."""
        if self._names:
            outcome = run_to_end(self._connection, self._played([Step(b"DEALLOCATE ALL")]))
            if outcome.error is not None:
                raise outcome.error
            self._names.clear()
        self._since = time.monotonic()

    def _played(self, steps: Sequence[Step], meanwhile: Callable[[], bool] = lambda: False) -> PQGen[Outcome]:
        pgconn = self._connection.pgconn
        pgconn.enter_pipeline_mode()
        try:
            asked = yield from self._ask(pgconn, steps)
            use_the_time(pgconn, meanwhile)
            return (yield from self._hear(pgconn, asked))
        finally:
            with suppress(psycopg.OperationalError):  # one that is lost stays in this mode
                pgconn.exit_pipeline_mode()

    def _ask(self, pgconn: PGconn, steps: Sequence[Step]) -> PQGen[list[tuple[bytes, bytes] | None]]:
        """What was asked: to prepare a statement under a name, or None to run one."""
        asked: list[tuple[bytes, bytes] | None] = []
        new: dict[bytes, bytes] = {}
        held = 0
        for step in steps:
            name = self._names.get(step.statement) or new.get(step.statement)
            if name is None:
                self._number += 1
                name = new[step.statement] = b"cdc_%d" % self._number
                pgconn.send_prepare(name, step.statement)
                asked.append((step.statement, name))
            pgconn.send_query_prepared(name, step.values)
            asked.append(None)
            held += sum(map(len, filter(None, step.values)))
            if held > CHUNK_BYTES:
                yield from sent(pgconn)
                held = 0
        pgconn.pipeline_sync()
        yield from sent(pgconn)
        return asked

    def _hear(self, pgconn: PGconn, asked: Sequence[tuple[bytes, bytes] | None]) -> PQGen[Outcome]:
        rows: list[int] = []
        for prepared in asked:
            result = yield from _answer(pgconn)
            if result.status not in (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK):
                error = error_from_result(result)
                with suppress(psycopg.OperationalError):  # a server that ends the session has said why
                    while (yield from _answer(pgconn)).status != ExecStatus.PIPELINE_SYNC:
                        pass
                return Outcome(rows, error)
            if prepared is None:
                rows.append(result.command_tuples or 0)
            else:
                statement, name = prepared
                self._names[statement] = name
        yield from _answer(pgconn)  # that all is done
        return Outcome(rows, None)


def _answer(pgconn: PGconn) -> PQGen[PGresult]:
    """The next that is not an end of one: after each but the last there is such an end."""
    for _ in range(2):
        result = yield from next_result(pgconn)
        if result is not None:
            return result
    raise psycopg.OperationalError("the connection is lost")
