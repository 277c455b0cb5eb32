"""A snapshot of the leader whose place in the order of commits is known: that of a slot made for it."""

from __future__ import annotations

import psycopg
from psycopg import sql

from cdc.protocol.lsn import Lsn
from connectors.postgres.replication import ReplicationStream


def take_snapshot(stream: ReplicationStream, connection: psycopg.Connection, slot: str) -> tuple[Lsn, str]:
    """(consistent point, name) of a snapshot that `connection` sees from now on, in a transaction that is open then.

    It holds every transaction whose commit LSN is before the consistent point, and no other. `stream` must stay open
    until everybody who needs the snapshot has taken it over by its name; the temporary `slot` is gone with it.
    """
    point, name = stream.create_temporary_slot_with_snapshot(slot[:63])
    connection.execute("BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
    connection.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(name)))
    return point, name


def request_descriptions(connection: psycopg.Connection) -> None:
    """Have capture describe every relation anew, for a reader that begins here."""
    connection.execute("SELECT pg_logical_emit_message(true, 'cdc.describe', '')")
