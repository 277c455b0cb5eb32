"""What a node that rejoins takes over from the leader: see cdc/services/rejoin.py."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg

from cdc.events.position import Position
from cdc.events.table import TableId
from cdc.events.touched import Key, TouchedTable
from cdc.protocol.lsn import Lsn
from connectors.postgres.connection import translated
from connectors.postgres.promotion_node import PostgresNode
from connectors.postgres.repair import copy_touched, rows_with
from connectors.postgres.replication import ReplicationStream
from connectors.postgres.sequences import last_values
from connectors.postgres.silence import connect_watched
from connectors.postgres.snapshot import request_descriptions, take_snapshot


class PostgresTakeover:
    """Implements `cdc.services.rejoin.Takeover`. `slot` is the group's; a temporary one is named after it."""

    def __init__(self, dsn: str, leader: str, node: PostgresNode, slot: str) -> None:
        """Connects to the leader."""
        self._dsn, self._leader_name = dsn, leader
        self._node = node
        self._slot = slot
        self._name = f"cdc rejoin {node.name}"
        self._leader = connect_watched(dsn, self._name, leader)
        self._stream: ReplicationStream | None = None

    def open(self) -> Lsn:
        with translated(self._leader_name):
            request_descriptions(self._leader)
            self._stream = ReplicationStream(self._dsn, self._name, self._leader_name)
            point, _ = take_snapshot(self._stream, self._leader, f"{self._slot}_join_{self._leader.info.backend_pid}")
        return point

    def leaders_rows(
        self, table: TableId, columns: tuple[str, ...], keys: Sequence[Key]
    ) -> dict[Key, dict[str, str | None]]:
        with translated(self._leader_name):
            return rows_with(self._leader, table, columns, keys)

    def take_over(self, tables: dict[TableId, TouchedTable], position: Position, slot: str) -> int:
        def repair(connection: psycopg.Connection) -> int:
            # The position is past what the log told of sequences that have not moved since.
            self._node.keep_sequences(last_values(self._leader))
            return sum(
                copy_touched(self._leader, connection, table, touched, self._node.name)
                for table, touched in sorted(tables.items())
            )

        return self._node.follow(position, slot, repair)

    def close(self) -> None:
        for connection in (self._stream, self._leader):
            if connection is not None:
                connection.close()
