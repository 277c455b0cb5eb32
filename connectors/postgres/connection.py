"""How this project connects to PostgreSQL: pinned output formats, timeouts, a name that operators see."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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


def connect(dsn: str, application_name: str, where: str, *, autocommit: bool = True) -> psycopg.Connection:
    """A connection with the pinned settings. Raises CheckError (refused) or RetryableError (not there)."""
    with translated(where):
        connection = open_connection(dsn, application_name)
        connection.autocommit = autocommit
        return connection


def open_connection(dsn: str, application_name: str, **extra: str) -> psycopg.Connection:
    """Like `connect`, with autocommit, parameters of libpq besides, and errors as psycopg raises them."""
    connection = psycopg.connect(conninfo_for(dsn, application_name, **extra), autocommit=True)
    if connection.info.server_version >= 170000:
        # An older server refuses a connection that asks for it. A walsender lives under it too: it sends a large
        # transaction from inside one of its own.
        connection.execute("SET transaction_timeout = 0")
    return connection
