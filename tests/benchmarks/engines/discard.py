"""A walsender whose messages are thrown away: the least that any logical replication costs its leader."""

from __future__ import annotations

import subprocess

import psycopg

from tests.benchmarks import processes
from tests.benchmarks.engines.engine import Engine
from tests.benchmarks.processes import Processes
from tests.benchmarks.servers import Databases, Servers


class Discard(Engine):
    """`pg_recvlogical` into /dev/null."""

    name = "walsender"
    needs_tables = False
    replicates = False

    def __init__(self, servers: Servers, databases: Databases) -> None:
        super().__init__(servers, databases)
        self._slot = databases.name
        self._reader: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with psycopg.connect(self.databases.leader, autocommit=True) as connection:
            connection.execute("CREATE PUBLICATION bench FOR TABLES IN SCHEMA public")
            connection.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", (self._slot,))
        self._reader = subprocess.Popen(
            [
                self.servers.programs / "pg_recvlogical", f"--dbname={self.databases.leader}", f"--slot={self._slot}",
                "--start", "--file=/dev/null", "--option=proto_version=1", "--option=publication_names=bench",
            ]
        )  # fmt: skip

    def daemons(self) -> Processes:
        return {}

    def helpers(self) -> Processes:
        return {"walsender": processes.walsenders(self.databases.leader)}

    def close(self) -> None:
        if self._reader is not None:
            self._reader.terminate()
            self._reader.wait()
