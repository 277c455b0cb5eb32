"""What a first copy and a new copy of some tables have in common: both ends, and rows from one snapshot."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psycopg

from cdc.copy_ports import Part, TableToCopy
from cdc.events.table import TableId
from connectors.postgres.connection import WatchedConnection
from connectors.postgres.copy_plan import CopiedColumn, CopyStatements, parts_of, statements
from connectors.postgres.copy_worker import CopyEnds, PostgresCopyWorker
from connectors.postgres.leader_snapshot import LeaderSnapshot
from connectors.postgres.silence import connect_watched


@dataclass(frozen=True, slots=True)
class Ends:
    """From where to where, by dsn and name; what is copied, and the log that goes on from it."""

    leader_dsn: str
    leader: str
    follower_dsn: str
    follower: str
    publication: str
    log_name: str


class SnapshotSource:
    """Implements `cdc.copy_ports.Source`, but for `open_snapshot`."""

    def __init__(self, ends: Ends, noted_as: str) -> None:
        """`noted_as` is this copy's name in cdc.bootstrap."""
        self._leader_dsn, self._leader_name = ends.leader_dsn, ends.leader
        self._follower_dsn, self._follower_name = ends.follower_dsn, ends.follower
        self._log = ends.log_name
        self._name = noted_as
        self._run = uuid.uuid4().hex
        self._leader = LeaderSnapshot(ends.leader_dsn, ends.leader, ends.follower, ends.publication)
        self._follower: WatchedConnection | None = None
        self._statements: Mapping[TableId, CopyStatements] = {}

    def request_descriptions(self) -> None:
        self._leader.request_descriptions()

    def tables(self) -> Sequence[TableToCopy]:
        return [source.to_copy() for source in self._leader.sources]

    def parts(self) -> Sequence[Part]:
        return sorted(parts_of(self._leader.sources), key=lambda part: -part.bytes)

    def worker(self) -> PostgresCopyWorker:
        ends = CopyEnds(
            self._leader_dsn, self._leader_name, self._follower_dsn, self._follower_name, self._leader.name,
            self._name, self._run,
        )  # fmt: skip
        return PostgresCopyWorker(ends, self._statements)

    def check_snapshot(self) -> None:
        self._leader.check()

    def close(self) -> None:
        self._leader.close()
        if self._follower is not None:
            self._follower.close()

    def _connect_to_follower(self) -> WatchedConnection:
        """Event triggers of the leader come with its schema: what we do is not for them to note, or refuse. psycopg's
        errors as they are, but for those of the connecting."""
        self._follower = connect_watched(
            self._follower_dsn, f"cdc bootstrap {self._follower_name}", self._follower_name
        )
        self._follower.execute("SET session_replication_role = replica")
        return self._follower

    def _plan(
        self,
        follower: psycopg.Connection,
        there: Mapping[TableId, list[CopiedColumn]],
        here: Mapping[TableId, list[CopiedColumn]],
        into: Mapping[TableId, TableId],
    ) -> None:
        """How the rows of each table travel; see `statements`."""
        same = self._leader.server_version // 10000 == follower.info.server_version // 10000
        tables = [source.table for source in self._leader.sources]
        self._statements = statements(tables, there, here, same, into)
