"""The log's changes of some tables go to copies of them that stand aside; see connectors/postgres/recopy.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cdc.events.position import Position
from cdc.events.table import TableId, TableSchema
from cdc.log.records import Truncation
from cdc.ports import Decision
from connectors.postgres.connection import translated
from connectors.postgres.silence import connect_watched
from connectors.postgres.target import PostgresTarget


class RecopyTarget(PostgresTarget):
    """Keeps no position, as the copies do not outlive the process that fills them."""

    def __init__(self, dsn: str, node: str, log_name: str, aside: Mapping[TableId, TableId]) -> None:
        super().__init__(dsn, node, log_name, lambda _: False)
        self._aside = aside

    def open(self) -> None:
        self._connection = connect_watched(self._dsn, f"cdc bootstrap {self._node} follows", self._node)
        with translated(self._node):
            self._take_role()
            self._connection.autocommit = False

    def _place_of(self, table: TableId) -> TableId:
        return self._aside[table]

    def truncate(self, statement: Truncation) -> None:
        tables = tuple(map(self._place_of, statement.tables))
        super().truncate(Truncation(tables, cascade=False, restart_identity=False))

    def store_sequences(self, values: Mapping[TableId, int]) -> None:
        """The applier does."""

    def store_epoch_ends(self, ends: Sequence[Position]) -> None:
        """The applier does."""

    def commit(self, position: Position, schemas: Sequence[TableSchema], decision: Decision | None = None) -> None:
        with translated(self._node):
            self._conn.commit()
        self._transaction_is_over()
