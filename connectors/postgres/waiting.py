"""Read-your-writes: what the leader has committed by now, and a follower that waits until it shows that."""

from __future__ import annotations

import psycopg

from cdc.errors import CheckError
from cdc.events.position import Token
from cdc.protocol.lsn import Lsn
from connectors.postgres.connection import translated

_LOST = "CDC01"
"""What `cdc.wait_for` raises for a token of an epoch that is over, see sql/follower.sql."""


def current_token(connection: psycopg.Connection, group: str, where: str) -> Token:
    """Raises CheckError when this node leads no log."""
    with translated(where):
        known = connection.execute("SELECT to_regclass('cdc.identity') IS NOT NULL").fetchone() == (True,)
        query = "SELECT epoch, pg_current_wal_insert_lsn()::text FROM cdc.identity WHERE group_name = %s"
        row = connection.execute(query, (group,)).fetchone() if known else None
    if row is None:
        raise CheckError("this node leads no log of the group", "run: cdc init", where)
    return Token(row[0], Lsn.parse(row[1]))


def wait_for(connection: psycopg.Connection, wanted: str, seconds: float, where: str) -> bool:
    """Whether this follower shows `wanted`, a token or an LSN of the present leader, within `seconds`.

    Raises CheckError when it never will for certain, or cannot tell."""
    with translated(where):
        try:
            row = connection.execute(
                "SELECT cdc.wait_for(%s::text, make_interval(secs => %s))", (wanted, seconds)
            ).fetchone()
        except (psycopg.errors.UndefinedFunction, psycopg.errors.InvalidSchemaName) as error:
            raise CheckError(
                "there is no function cdc.wait_for: no follower, or an older version made it",
                "bootstrap it, or start its applier once with this version",
                where,
            ) from error
        except psycopg.errors.ObjectNotInPrerequisiteState as error:
            raise CheckError("this database follows no log, or more than one", "name a follower", where) from error
        except psycopg.Error as error:
            if error.sqlstate != _LOST:
                raise
            raise CheckError(
                f"the epoch of {wanted} is over, and it is not known to have been carried over",
                "see on the leader whether the write is there, and take a new token",
                where,
            ) from error
    return row == (True,)
