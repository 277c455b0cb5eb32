"""How this project connects to PostgreSQL: pinned output formats, timeouts, a name that operators see."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import conninfo

from connectors.postgres.errors import translate

SESSION_SETTINGS = {
    "DateStyle": "ISO",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "quote_all_identifiers": "off",
    "array_nulls": "on",
    "xmloption": "content",
    "search_path": "pg_catalog",
    # A policy that hides rows from our role is an error, not a copy without them.
    "row_security": "off",
    "default_transaction_read_only": "off",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    # The server's side: a session whose client is gone lets go of its slot or lock in half a minute.
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}
"""Values travel as text, so every session that reads or writes them must agree on the text (bug class 25:
DateStyle and its kin). A follower's database is read-only by default; our sessions say otherwise."""

CONNECT_TIMEOUT_SECONDS = 5
ANSWER_SECONDS = 20.0
"""How long a daemon waits for an answer that should come at once."""


class WatchedConnection(psycopg.Connection[Any]):
    """Notices a server, or a network, that keeps the connection and says nothing.

    TCP does not notice when a proxy or a load balancer stands in between: that one answers the keepalives.
    `on_silence` is called each time that a call has waited for `silence_seconds` more in which no byte could be read
    or written, with the seconds since the last one. What it raises ends the call and the connection. `on_wake`, of a
    connection that has `on_silence`, is called several times a second while a call waits.
    """

    on_silence: Callable[[float], None] | None = None
    on_wake: Callable[[], None] | None = None
    silence_seconds = 10.0

    def wait(self, gen: Generator[Any, Any, Any], *arguments: Any, **options: Any) -> Any:
        watched = gen if self.on_silence is None else self._watch(gen, self.on_silence)
        return super().wait(watched, *arguments, **options)

    def _watch(self, gen: Generator[Any, Any, Any], on_silence: Callable[[float], None]) -> Generator[Any, Any, Any]:
        """Stands between psycopg, which says every 0.1 s that nothing is ready, and its own work."""
        moved = told = time.monotonic()
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if self.on_wake is not None:
                    self.on_wake()
                now = time.monotonic()
                if ready:
                    moved = told = now
                elif now - told >= self.silence_seconds:
                    told = now
                    try:
                        on_silence(now - moved)
                    except BaseException:
                        self.close()
                        raise
                wanted = gen.send(ready)
        except StopIteration as end:
            return end.value


def no_answer(seconds: float) -> None:
    """For `on_silence`: enough is enough."""
    raise psycopg.OperationalError(f"the server has not answered for {seconds:.0f} s")


def conninfo_for(dsn: str, application_name: str, **extra: str) -> str:
    """`dsn` with our session settings, keepalives and timeouts; what the dsn says itself about these wins.

    Raises psycopg.ProgrammingError when `dsn` is not a connection string.
    """
    given = conninfo.conninfo_to_dict(dsn)
    options = " ".join(f"-c {name}={value}" for name, value in SESSION_SETTINGS.items())
    defaults = {
        "connect_timeout": str(CONNECT_TIMEOUT_SECONDS),
        "keepalives_idle": "10",
        "keepalives_interval": "5",
        "keepalives_count": "3",
        "tcp_user_timeout": "20000",
    }
    merged = {**defaults, **given, **extra, "application_name": application_name, "client_encoding": "UTF8"}
    merged["options"] = f"{given.get('options', '')} {options}".strip()
    return conninfo.make_conninfo("", **merged)


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Errors of psycopg leave as the project's own, with `where` as the place."""
    try:
        yield
    except psycopg.Error as error:
        raise translate(error, where) from error


def connect(
    dsn: str, application_name: str, where: str, *, autocommit: bool = True, answer_seconds: float | None = None
) -> WatchedConnection:
    """A connection with the pinned settings. Raises CheckError (refused) or RetryableError (not there).

    A call that waits for an answer longer than `answer_seconds` fails, and the connection with it.
    """
    with translated(where):
        connection = open_connection(dsn, application_name, answer_seconds)
        connection.autocommit = autocommit
        return connection


def open_connection(
    dsn: str, application_name: str, answer_seconds: float | None = None, **extra: str
) -> WatchedConnection:
    """Like `connect`, with autocommit, parameters of libpq besides, and errors as psycopg raises them."""
    connection = WatchedConnection.connect(conninfo_for(dsn, application_name, **extra), autocommit=True)
    if answer_seconds is not None:
        connection.silence_seconds, connection.on_silence = answer_seconds, no_answer
    if connection.info.server_version >= 170000:
        # An older server refuses a connection that asks for it. A walsender lives under it too: it sends a large
        # transaction from inside one of its own.
        connection.execute("SET transaction_timeout = 0")
    return connection
