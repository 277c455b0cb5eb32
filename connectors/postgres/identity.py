"""Whose log this leader feeds, written down by `cdc init` in the leader's own schema `cdc`."""

from __future__ import annotations

import psycopg

from cdc.capture_ports import LeaderIdentity
from connectors.postgres.connection import translated

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
    COMMENT ON TABLE cdc.identity IS 'which log each slot of this database feeds; written by cdc init';
"""
_UPSERT = """
    INSERT INTO cdc.identity (group_name, epoch, system_id, timeline, slot_name, topic, topic_id)
    VALUES (%s, %s, %s, %s, %s, %s, %s)
    ON CONFLICT (group_name) DO UPDATE SET epoch = excluded.epoch, system_id = excluded.system_id,
        timeline = excluded.timeline, slot_name = excluded.slot_name, topic = excluded.topic,
        topic_id = excluded.topic_id
"""


def load_identity(conn: psycopg.Connection, group: str, where: str) -> LeaderIdentity | None:
    """None when `cdc init` never ran for this group here."""
    with translated(where):
        if conn.execute("SELECT pg_catalog.to_regclass('cdc.identity')").fetchone() == (None,):
            return None
        row = conn.execute(
            "SELECT group_name, epoch, system_id, timeline, slot_name, topic, topic_id FROM cdc.identity "
            "WHERE group_name = %s",
            (group,),
        ).fetchone()
    return None if row is None else LeaderIdentity(*row)


def store_identity(conn: psycopg.Connection, identity: LeaderIdentity, where: str) -> None:
    """Makes the table when it is not there. One transaction."""
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
            ),
        )
