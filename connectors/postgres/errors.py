"""SQLSTATE to what an operator should do: retry, stop, or fix the configuration.

Server messages can hold values of rows (DETAIL, CONTEXT and some primary messages do), so only the
SQLSTATE, its condition name and the names of table, column and constraint are passed on.
Codes: PostgreSQL manual, appendix A.
"""

from __future__ import annotations

import psycopg
from psycopg import errors as pg

from cdc.errors import (
    BlockedError,
    CdcError,
    CheckError,
    FencedError,
    RefusedError,
    RetryableError,
    SlotError,
    TerminalError,
)

_RETRY_CLASSES = ("08", "40", "53", "57", "58")
"""Connection, rollback (serialization, deadlock), resources, operator intervention, system."""
_RETRY_CODES = (
    "25P03",  # idle_in_transaction_session_timeout
    "25P04",  # transaction_timeout
)
_UNTRUSTED = ("certificate verify failed", "server certificate for ", "root certificate file ", "not support SSL, but")
"""libpq's words for a server that does not prove who it is, in the way that the dsn asks for."""
_TRUST_REMEDY = (
    "see that its certificate is of an authority in sslrootcert, for the host of the dsn, and not expired; files are "
    "read at each try"
)
_LOGIN_REMEDY = "correct user or password: ~/.pgpass is read at each try, the dsn when the process starts"


def translate(error: psycopg.Error, where: str) -> CdcError:
    """The error for people; `where` names the node. Never holds the server's own text for row errors."""
    state = error.sqlstate
    if state is None:
        return _without_sqlstate(error, where)
    if state in ("28000", "28P01"):
        return RefusedError(f"login refused ({state})", _LOGIN_REMEDY, where)
    if state == "3D000":
        return CheckError("the database does not exist (3D000)", "create it, or correct the dsn", where)
    if state == "42501":
        return RefusedError(
            f"not permitted (42501): {_first_line(error)}", "grant the role of the dsn what the line names", where
        )
    if state == "55006":
        return FencedError(
            f"in use by another process (55006): {_first_line(error)}", "stop the other one, or let it work", where
        )
    if state == "53100":
        return BlockedError("the disk is full (53100)", "free space there", where)
    if state == "55P03":
        return BlockedError("a lock was not to be had in time (55P03)", "end the session that holds it", where)
    if state == "25006":
        return RetryableError(
            "the server is read-only (25006): in recovery, or its dsn leads to a standby", "promote it, or wait", where
        )
    if state[:2] in _RETRY_CLASSES or state in _RETRY_CODES:
        return RetryableError(f"{condition(error)} ({state})", where=where)
    return TerminalError(f"{condition(error)} ({state}){_names(error)}", "see the log of the server", where)


def slot_error(error: psycopg.Error, where: str, slot: str) -> CdcError:
    """Like `translate`, for statements about a slot, where some codes have their own remedy."""
    if error.sqlstate == "42704":
        return SlotError(
            f"replication slot {slot} does not exist",
            "do not create it anew: changes since it was dropped are lost. Start a new log and bootstrap the followers",
            where,
        )
    if error.sqlstate == "55000":
        return SlotError(
            f"replication slot {slot} cannot be used (55000): {_first_line(error)}",
            "if it was invalidated, start a new log and bootstrap the followers",
            where,
        )
    return translate(error, where)


def decoding_error(error: psycopg.Error, where: str) -> CdcError:
    """Like `translate`, for what ends a replication stream.

    An internal error of the server may be one of the moment (seen: "could not open relation with OID" while it decoded
    a TRUNCATE, after its disk had been full). Decoding again is harmless: nothing is confirmed that is not in the log.
    """
    if error.sqlstate == "XX000":
        return BlockedError("the server failed to decode its WAL (XX000)", "see the log of the server", where)
    return translate(error, where)


def condition(error: psycopg.Error) -> str:
    """The condition's name in words: UniqueViolation -> unique violation."""
    try:
        name = pg.lookup(error.sqlstate or "").__name__.rstrip("_")
    except KeyError:
        return "error of the server"
    return "".join(f" {c.lower()}" if c.isupper() else c for c in name).strip()


def _names(error: psycopg.Error) -> str:
    """Table, column and constraint, where the server says them; these are names, never values."""
    diag = error.diag
    parts = [
        f"{label} {value}"
        for label, value in (
            ("table", f"{diag.schema_name}.{diag.table_name}" if diag.table_name else None),
            ("column", diag.column_name),
            ("constraint", diag.constraint_name),
        )
        if value
    ]
    return f" on {', '.join(parts)}" if parts else ""


def _without_sqlstate(error: psycopg.Error, where: str) -> CdcError:
    text = _first_line(error)
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        if any(words in text for words in _UNTRUSTED):
            return RefusedError(f"the server is not trusted: {text}", _TRUST_REMEDY, where)
        if "password authentication failed" in text or "no password supplied" in text:
            return RefusedError("login refused", _LOGIN_REMEDY, where)
        if "does not exist" in text and "database" in text:
            return CheckError("the database does not exist", "create it, or correct the dsn", where)
        if "does not exist" in text and "role" in text:
            return RefusedError("login refused: no such role", "create the role, or correct the dsn", where)
        if "not permitted to log in" in text:
            return RefusedError("login refused: the role may not log in", "ALTER ROLE it LOGIN", where)
        if "no pg_hba.conf entry" in text:
            return RefusedError("login refused by pg_hba.conf", "add an entry for this host, user and database", where)
        return RetryableError(f"no connection: {text}", "start the server or correct the dsn", where)
    return TerminalError(f"{type(error).__name__}: {text}", "report it as a bug", where)


def _first_line(error: psycopg.Error) -> str:
    primary = error.diag.message_primary
    lines = (primary or str(error)).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]
