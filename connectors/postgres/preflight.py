"""What `cdc check` reads of a node, in few queries, as a database may have thousands of tables. Reads only."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import psycopg

from cdc.capture_ports import SystemFacts
from cdc.check_ports import (
    DATABASE,
    ApplierRights,
    CollationFacts,
    FollowerNode,
    ForeignKey,
    LeaderNode,
    NodeColumn,
    NodeFacts,
    NodeReading,
    NodeTable,
    WalKept,
)
from cdc.errors import BlockedError
from cdc.events.column_types import ColumnType
from cdc.events.table import TableId
from cdc.protocol.lsn import Lsn
from connectors.postgres.catalog import COLUMNS, FIRING, table_facts
from connectors.postgres.connection import translated
from connectors.postgres.identity import load_identity, look
from connectors.postgres.initial_copy import FOREIGN_TABLES, copy_state
from connectors.postgres.leader import leader_facts
from connectors.postgres.leader_snapshot import DATABASE_IDENTITY
from connectors.postgres.node_status import follower_facts, leadership
from connectors.postgres.progress import read_position
from connectors.postgres.publication import APPLICATION_TABLES, IDENTITY_INDEX
from connectors.postgres.read_only import unprotected
from connectors.postgres.shape import as_described, require_place

_NODE = """
SELECT current_setting('server_version'),
       CASE WHEN pg_is_in_recovery() THEN 0
            ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int END
"""
_SETTINGS = """
SELECT name, current_setting(name) FROM pg_settings
WHERE name IN ('max_slot_wal_keep_size', 'idle_replication_slot_timeout', 'max_replication_slots', 'max_wal_senders',
               'wal_sender_timeout')
"""
_TABLES = f"""
SELECT c.oid::bigint, n.nspname, c.relname,
       ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = c.oid AND attgenerated <> ''
             AND attnum = ANY(({IDENTITY_INDEX})::int2[])),
       c.relpersistence = 'u', pg_get_userbyid(c.relowner)::text, pg_has_role(c.relowner, 'USAGE'),
       has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT'),
       has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
           AND has_table_privilege(c.oid, 'INSERT') AND has_table_privilege(c.oid, 'UPDATE')
           AND has_table_privilege(c.oid, 'DELETE') AND has_table_privilege(c.oid, 'TRUNCATE'),
       c.relreplident = 'f' OR EXISTS ({IDENTITY_INDEX}), c.relreplident = 'f',
       EXISTS (SELECT FROM pg_index WHERE indrelid = c.oid AND indisunique AND indimmediate AND indisvalid
               AND indpred IS NULL AND indexprs IS NULL),
       row_security_active(c.oid)
{APPLICATION_TABLES} AND c.relpersistence IN ('p', 'u') ORDER BY 2, 3
"""  # noqa: S608 - the parts are constants
_NODE_COLUMNS = f"""
SELECT attrelid::bigint, attname, format_type(atttypid, atttypmod), base.name, base.typmod, base.depth > 0, attnotnull,
       atthasdef OR attidentity <> '' OR attgenerated <> '',
       CASE WHEN attgenerated <> '' THEN (SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef
                                          WHERE adrelid = attrelid AND adnum = attnum) END
{COLUMNS}
"""  # noqa: S608 - the parts are constants
_FOREIGN_KEYS = """
SELECT conrelid::bigint, conname, n.nspname, t.relname, pg_get_constraintdef(k.oid)
FROM pg_constraint k JOIN pg_class t ON t.oid = confrelid JOIN pg_namespace n ON n.oid = t.relnamespace
WHERE contype = 'f' AND conparentid = 0 AND conrelid = ANY(%s) ORDER BY 1, 2
"""
_SEQUENCES = """
SELECT n.nspname, c.relname, has_schema_privilege(n.oid, 'USAGE') AND has_sequence_privilege(c.oid, 'USAGE, SELECT')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE relkind = 'S' AND nspname !~ '^pg_' AND nspname NOT IN ('information_schema', 'cdc') AND relpersistence <> 't'
"""
_TYPES = """
SELECT format('%I.%I', n.nspname, t.typname),
       ARRAY(SELECT enumlabel::text FROM pg_enum WHERE enumtypid = t.oid ORDER BY enumsortorder)
FROM pg_type t JOIN pg_namespace n ON n.oid = typnamespace LEFT JOIN pg_class c ON c.oid = typrelid
WHERE NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_type'::regclass AND objid = t.oid AND deptype = 'e')
  AND typtype IN ('e', 'd', 'c', 'r', 'b') AND (typrelid = 0 OR relkind = 'c') AND typcategory <> 'A'
  AND nspname !~ '^pg_' AND nspname NOT IN ('information_schema', 'cdc')
"""
_STALE_COLLATIONS = """
SELECT format('%I.%I', nspname, collname) FROM pg_collation c JOIN pg_namespace n ON n.oid = collnamespace
WHERE collversion IS NOT NULL AND collversion <> pg_collation_actual_version(c.oid)
  AND EXISTS (SELECT FROM pg_depend WHERE refclassid = 'pg_collation'::regclass AND refobjid = c.oid)
ORDER BY 1
"""
_TIME_ZONES = """
SELECT name, (SELECT string_agg(extract(epoch FROM moment AT TIME ZONE name)::bigint::text, ' ' ORDER BY moment)
              FROM generate_series(timestamp '2025-01-15', '2027-12-31', '6 months') moment)
FROM pg_timezone_names WHERE name !~ '^(posix|right)/' AND name NOT IN ('localtime', 'posixrules', 'Factory')
"""
"""The offsets of a zone change with the laws of a country, so each is asked for at some moments of recent years."""
_LARGE_OBJECTS = "SELECT count(*) FROM (SELECT FROM pg_largeobject_metadata LIMIT 1000) found"
_WAL_KEPT = """
SELECT slot_name::text, pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint, active FROM pg_replication_slots
WHERE restart_lsn IS NOT NULL ORDER BY 2 DESC
"""
_RIGHTS = """
SELECT {may_set},
       (SELECT bool_and(has_function_privilege(p.oid, 'EXECUTE')) FROM pg_proc p
        WHERE pronamespace = 'pg_catalog'::regnamespace
          AND proname ~ '^pg_replication_origin_(create|oid|session_setup|xact_setup)$'),
       has_database_privilege(current_database(), 'TEMPORARY'),
       (SELECT coalesce(bool_and(has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT')
                                 AND has_table_privilege(c.oid, 'UPDATE')), true)
        FROM pg_class c WHERE relnamespace = to_regnamespace('cdc') AND relkind = 'r'),
       (SELECT pg_has_role(datdba, 'USAGE') FROM pg_database WHERE datname = current_database()),
       current_setting('{limit}')::int
           - (SELECT count(*)::int FROM pg_replication_origin {in_use}
              WHERE roname <> (SELECT 'cdc_' || oid FROM pg_database WHERE datname = current_database()))
"""
_MOST_EXPLAINED = 20
"""Tables of which it is said in full what does not fit."""


def read_node(connection: psycopg.Connection, group: str, slot: str, log_name: str, where: str) -> NodeReading:
    """Raises RefusedError where a catalog is closed to our role."""
    with translated(where):
        node = _node(connection, log_name, where)
        position = read_position(connection, log_name)
        known = position is not None or node.leadership.epoch is not None
        follower = FollowerNode(
            node,
            _rights(connection),
            copy_state(connection, log_name)[0],
            follower_facts(connection, log_name, where) if known else None,
            position.next_offset if position else None,
            _row(connection, FOREIGN_TABLES)[0],
            frozenset(unprotected(connection, node.tables)),
        )
        return NodeReading(_leader(connection, node, group, slot), follower)


def _leader(connection: psycopg.Connection, node: NodeFacts, group: str, slot: str) -> LeaderNode:
    """A standby has no WAL of its own."""
    (largest,) = _row(connection, "SELECT pg_size_bytes(current_setting('max_wal_size'))")
    kept = [] if node.server.in_recovery else connection.execute(_WAL_KEPT).fetchall()
    return LeaderNode(
        node,
        load_identity(connection, group, node.name),
        look(connection, group, slot, node.name),
        tuple(WalKept(*row) for row in kept),
        largest,
    )


def _node(connection: psycopg.Connection, log_name: str, where: str) -> NodeFacts:
    before = time.time()
    (clock,) = _row(connection, "SELECT extract(epoch FROM clock_timestamp())::float8")
    after = time.time()
    version, timeline = _row(connection, _NODE)
    system_id, oid, _ = _row(connection, DATABASE_IDENTITY)
    return NodeFacts(
        name=where,
        server=leader_facts(connection, where),
        system=SystemFacts(str(system_id), timeline, Lsn(0)),
        database_id=(str(system_id), oid),
        minor_version=version.split(" ")[0],
        clock_ahead=clock - (before + after) / 2,
        clock_error=(after - before) / 2,
        settings=dict(connection.execute(_SETTINGS).fetchall()),
        tables=_tables(connection),
        sequences={TableId(schema, name): readable for schema, name, readable in connection.execute(_SEQUENCES)},
        extensions=_names(connection, "SELECT extname FROM pg_extension"),
        available_extensions=_names(connection, "SELECT name FROM pg_available_extensions"),
        types={name: tuple(labels) for name, labels in connection.execute(_TYPES)},
        collation=_collation(connection),
        time_zones=dict(connection.execute(_TIME_ZONES).fetchall()),
        large_objects=_row(connection, _LARGE_OBJECTS)[0],
        leadership=leadership(connection, log_name),
    )


def misplaced(
    connection: psycopg.Connection, leaders: Mapping[TableId, NodeTable], here: NodeFacts, log_name: str
) -> list[BlockedError]:
    """What this node's applier would say of rows of the leader's tables that have no place in it; the first few."""
    found: list[BlockedError] = []
    for name, table in leaders.items():
        if len(found) < _MOST_EXPLAINED and not _alike(table, here.tables.get(name)):
            try:
                facts = table_facts(connection, name)
                types = {column: its.type for column, its in table.columns.items() if its.generated is None}
                require_place(connection, as_described(name, types), facts, log_name, here.name)
            except BlockedError as error:
                found.append(error)
    return found


def _alike(there: NodeTable, here: NodeTable | None) -> bool:
    """Most tables are; the others are looked at one by one."""
    if here is None:
        return False
    types = {name: column.type for name, column in here.columns.items()}
    return all(types.get(name) == column.type for name, column in there.columns.items() if column.generated is None)


def _tables(connection: psycopg.Connection) -> dict[TableId, NodeTable]:
    rows = connection.execute(_TABLES).fetchall()
    oids = [oid for oid, *_ in rows]
    columns: dict[int, dict[str, NodeColumn]] = defaultdict(dict)
    for oid, name, declared, base, typmod, domain, *facts in connection.execute(_NODE_COLUMNS, (oids,)):
        columns[oid][name] = NodeColumn(name, ColumnType(base, typmod, domain), declared, *facts)
    keys: dict[int, list[ForeignKey]] = defaultdict(list)
    for oid, name, target_schema, target, definition in connection.execute(_FOREIGN_KEYS, (oids,)):
        keys[oid].append(ForeignKey(name, TableId(target_schema, target), definition))
    firing: dict[int, list[str]] = defaultdict(list)
    for oid, name in connection.execute(FIRING, {"tables": oids}):
        firing[oid].append(name)
    found = {}
    for oid, schema, name, generated, *facts in rows:
        table = TableId(schema, name)
        found[table] = NodeTable(table, columns[oid], tuple(keys[oid]), tuple(firing[oid]), tuple(generated), *facts)
    return found


def _collation(connection: psycopg.Connection) -> CollationFacts:
    """PostgreSQL remembers with which version of the system's rules a database was made since version 15."""
    version = connection.info.server_version
    column = "datlocale" if version >= 170000 else "daticulocale" if version >= 150000 else "NULL::text"
    query = f"""
        SELECT concat_ws(' / ', datcollate, datctype, {column}),
               {"datlocprovider::text" if version >= 150000 else "'c'"},
               {"pg_database_collation_actual_version(oid)" if version >= 150000 else "NULL"},
               {"datcollversion" if version >= 150000 else "NULL"}
        FROM pg_database WHERE datname = current_database()
    """  # noqa: S608 - the parts are constants
    name, provider, actual, recorded = _row(connection, query)
    stale = [name for (name,) in connection.execute(_STALE_COLLATIONS)]
    if recorded is not None and recorded != actual:
        stale.insert(0, DATABASE)
    return CollationFacts(name, provider, actual, tuple(stale))


def _rights(connection: psycopg.Connection) -> ApplierRights:
    version = connection.info.server_version
    superuser = "(SELECT rolsuper FROM pg_roles WHERE rolname = current_user)"
    granted = " OR has_parameter_privilege('session_replication_role', 'SET')" if version >= 150000 else ""
    limit = "max_active_replication_origins" if version >= 180000 else "max_replication_slots"
    (may_look,) = _row(connection, "SELECT has_function_privilege('pg_show_replication_origin_status()', 'EXECUTE')")
    # Without that right those that are known are taken for being in use.
    in_use = "JOIN pg_replication_origin_status ON local_id = roident" if may_look else ""
    return ApplierRights(*_row(connection, _RIGHTS.format(may_set=superuser + granted, limit=limit, in_use=in_use)))


def _names(connection: psycopg.Connection, query: str) -> frozenset[str]:
    return frozenset(name for (name,) in connection.execute(query))


def _row(connection: psycopg.Connection, query: str) -> tuple[Any, ...]:
    row = connection.execute(query).fetchone()
    assert row is not None, "a query without conditions has a row"
    return tuple(row)
