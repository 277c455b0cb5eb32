"""Whose log this leader feeds, written down by `cdc init` in the leader's own schema `cdc`."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from cdc.capture_ports import LeaderIdentity, LeaderLook
from cdc.protocol.lsn import Lsn
from connectors.postgres.connection import translated
from connectors.postgres.publication import existing, publication_from_json, publication_json
from connectors.postgres.slots import slot_facts

_CREATE = """
    CREATE SCHEMA IF NOT EXISTS cdc;
    CREATE TABLE IF NOT EXISTS cdc.identity (
        group_name text PRIMARY KEY,
        epoch bigint NOT NULL,
        system_id text NOT NULL,
        timeline int NOT NULL,
        slot_name text NOT NULL,
        topic text NOT NULL,
        topic_id text,
        created_at timestamptz NOT NULL DEFAULT pg_catalog.now()
    );
    ALTER TABLE cdc.identity ADD COLUMN IF NOT EXISTS slot_made_lsn pg_lsn;
    ALTER TABLE cdc.identity ADD COLUMN IF NOT EXISTS publication jsonb;
    ALTER TABLE cdc.identity ADD COLUMN IF NOT EXISTS node text NOT NULL DEFAULT '';
    COMMENT ON COLUMN cdc.identity.slot_made_lsn IS 'where the slot began';
    COMMENT ON COLUMN cdc.identity.publication IS 'what was published when cdc init ran last';
    COMMENT ON TABLE cdc.identity IS 'which log each slot of this database feeds; written by cdc init';
    -- For cdc.wait_for, which works on a follower that was promoted, too.
    GRANT SELECT (topic, epoch) ON cdc.identity TO PUBLIC;
"""
_UPSERT = """
    INSERT INTO cdc.identity (group_name, epoch, system_id, timeline, slot_name, topic, topic_id, node)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
    ON CONFLICT (group_name) DO UPDATE SET epoch = excluded.epoch, system_id = excluded.system_id,
        timeline = excluded.timeline, slot_name = excluded.slot_name, topic = excluded.topic,
        topic_id = excluded.topic_id, node = excluded.node, slot_made_lsn = NULL, publication = NULL
"""


def load_identity(conn: psycopg.Connection, group: str, where: str) -> LeaderIdentity | None:
    """None when `cdc init` never ran for this group here."""
    with translated(where):
        if conn.execute("SELECT pg_catalog.to_regclass('cdc.identity')").fetchone() == (None,):
            return None
        row = conn.execute(
            "SELECT group_name, epoch, system_id, timeline, slot_name, topic, topic_id, "
            "coalesce(to_jsonb(i) ->> 'node', '') FROM cdc.identity i WHERE group_name = %s",
            (group,),
        ).fetchone()
    return None if row is None else LeaderIdentity(*row)


def store_identity(conn: psycopg.Connection, identity: LeaderIdentity, where: str) -> None:
    """Makes the table when it is not there. Remembers slot and publication, where they exist. One transaction."""
    with translated(where), conn.transaction():
        conn.execute(_CREATE)
        conn.execute(
            _UPSERT,
            (
                identity.group,
                identity.epoch,
                identity.system_id,
                identity.timeline,
                identity.slot,
                identity.topic,
                identity.topic_id,
                identity.node,
            ),
        )
        _remember(conn, identity.group, identity.slot)


def look(conn: psycopg.Connection, group: str, slot: str, where: str) -> LeaderLook:
    """One snapshot for all of it, so that a step of somebody else is seen whole or not at all."""
    with translated(where), conn.transaction():
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        facts = slot_facts(conn, slot, where)
        made_lsn, told = _remembered(conn, group)
        found = publication_json(conn, slot)
        published = publication_from_json(found) if found else None
        expected = publication_from_json(told) if told else None
        here = published.tables.values() if published else ()
        wanted = expected.tables.values() if expected else ()
        unpublished = existing(conn, {t.table for t in wanted} - {t.table for t in here})
    return LeaderLook(facts, Lsn.parse(made_lsn) if made_lsn else None, published, expected, unpublished)


def remember(conn: psycopg.Connection, group: str, slot: str, where: str) -> None:
    """See `cdc.capture_ports.LeaderSetup`. One transaction."""
    with translated(where), conn.transaction():
        if not _has_columns(conn):
            conn.execute(_CREATE)
        _remember(conn, group, slot)


def _remember(conn: psycopg.Connection, group: str, slot: str) -> None:
    found = publication_json(conn, slot)
    conn.execute(
        "UPDATE cdc.identity i SET publication = %s, slot_made_lsn = coalesce(slot_made_lsn, "
        "(SELECT confirmed_flush_lsn FROM pg_catalog.pg_replication_slots s WHERE s.slot_name = i.slot_name)) "
        "WHERE group_name = %s",
        (Jsonb(found) if found else None, group),
    )


def forget_publication(conn: psycopg.Connection, publication: str) -> None:
    """It is about to be changed; until `remember` nothing is compared with it."""
    if _has_columns(conn):
        conn.execute("UPDATE cdc.identity SET publication = NULL WHERE slot_name = %s", (publication,))


def _remembered(conn: psycopg.Connection, group: str) -> tuple[str | None, dict[str, Any] | None]:
    if not _has_columns(conn):
        return None, None
    row = conn.execute(
        "SELECT slot_made_lsn::text, publication FROM cdc.identity WHERE group_name = %s", (group,)
    ).fetchone()
    return (row[0], row[1]) if row else (None, None)


def _has_columns(conn: psycopg.Connection) -> bool:
    """False before `cdc init`, or when an older version of it ran."""
    row = conn.execute(
        "SELECT count(*) FROM pg_catalog.pg_attribute WHERE attrelid = pg_catalog.to_regclass('cdc.identity') "
        "AND attname IN ('slot_made_lsn', 'publication')"
    ).fetchone()
    return row == (2,)
