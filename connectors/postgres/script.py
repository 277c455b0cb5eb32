"""HOT PATH: several statements in one round trip, COPY with its data among them.

psycopg runs a statement at a time, and a COPY in three round trips. One simple query may hold many statements: the
server runs one after the other, asks for the data of a COPY when it comes to it, and stops at the first that fails
(PostgreSQL manual, "Multiple Statements in a Simple Query").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psycopg
from psycopg.abc import PQGen
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus, TransactionStatus
from psycopg.pq.abc import PGconn, PGresult
from psycopg.waiting import Ready, Wait

CHUNK_BYTES = 2**20
"""So much of the data is handed to libpq before what is there is sent: it keeps what it cannot send in memory."""


@dataclass(frozen=True, slots=True)
class Step:
    """A statement, and for a COPY what makes its data once the server asks for them. Only a pipeline takes `values`
    for its parameters, in the text format, None for NULL."""

    statement: bytes
    data: Callable[[], bytes] | None = None
    values: Sequence[bytes | None] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """How many rows each step met that was done, and why the one after them failed."""

    rows: list[int]
    error: psycopg.Error | None


def play(
    connection: psycopg.Connection, steps: Sequence[Step], meanwhile: Callable[[], bool] = lambda: False
) -> Outcome:
    """Run `steps` in the transaction that is open, or in one that begins with them. `meanwhile` is called again and
    again, until it returns False, while the server works on the last of the data.

    Raises psycopg.Error for a lost connection, and what the making of data raises, with the transaction failed.
    """
    return begun(connection, steps, lambda all_steps: _played(connection.pgconn, all_steps, meanwhile))


def begun(
    connection: psycopg.Connection, steps: Sequence[Step], played: Callable[[Sequence[Step]], PQGen[Outcome]]
) -> Outcome:
    """What came of `steps`, with a BEGIN before them where no transaction is open."""
    begins = connection.info.transaction_status is TransactionStatus.IDLE
    outcome = run_to_end(connection, played([Step(b"BEGIN"), *steps] if begins else steps))
    return Outcome(outcome.rows[1:], outcome.error) if begins else outcome


def run_to_end(connection: psycopg.Connection, played: PQGen[Outcome]) -> Outcome:
    with connection.lock:
        return connection.wait(played)


def _played(pgconn: PGconn, steps: Sequence[Step], meanwhile: Callable[[], bool]) -> PQGen[Outcome]:
    last = max((at for at, step in enumerate(steps) if step.data is not None), default=-1)
    rows: list[int] = []
    unfit: Exception | None = None
    pgconn.send_query(b";\n".join(step.statement for step in steps))
    yield from sent(pgconn)
    while result := (yield from next_result(pgconn)):
        if result.status == ExecStatus.COPY_IN:
            try:
                data = _data_of(steps[len(rows)])
            except Exception as raised:  # the server waits for an end of the data
                unfit = raised
                yield from _ended(pgconn, b"there are no data")
                continue
            yield from _copied(pgconn, data)
            del data
            yield from _ended(pgconn)
            if len(rows) == last:
                use_the_time(pgconn, meanwhile)
        elif result.status in (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK):
            rows.append(result.command_tuples or 0)
        else:
            error = error_from_result(result)
            with suppress(psycopg.OperationalError):  # a server that ends the session has said why
                while (yield from next_result(pgconn)):
                    pass
            if unfit is not None:
                raise unfit
            return Outcome(rows, error)
    return Outcome(rows, None)


def _data_of(step: Step) -> bytes:
    if step.data is None:
        raise psycopg.ProgrammingError("a COPY without data")
    return step.data()


def _copied(pgconn: PGconn, data: bytes) -> PQGen[None]:
    view = memoryview(data)
    for at in range(0, len(data), CHUNK_BYTES):
        while not pgconn.put_copy_data(view[at : at + CHUNK_BYTES]):
            yield Wait.W
        yield from sent(pgconn)


def _ended(pgconn: PGconn, error: bytes | None = None) -> PQGen[None]:
    while not pgconn.put_copy_end(error):
        yield Wait.W
    yield from sent(pgconn)


def sent(pgconn: PGconn) -> PQGen[None]:
    """Until libpq holds nothing back."""
    while pgconn.flush():
        ready = yield Wait.RW
        if ready & Ready.R:  # a server that has much to say may take nothing until it is heard
            pgconn.consume_input()


def use_the_time(pgconn: PGconn, meanwhile: Callable[[], bool]) -> None:
    while meanwhile():
        pgconn.consume_input()
        if not pgconn.is_busy():
            return


def next_result(pgconn: PGconn) -> PQGen[PGresult | None]:
    while pgconn.is_busy():
        if (yield Wait.R):
            pgconn.consume_input()
    return pgconn.get_result()
