"""PostgreSQL's own logical replication."""

from __future__ import annotations

import psycopg

from tests.benchmarks import processes
from tests.benchmarks.engines.engine import Engine
from tests.benchmarks.processes import Processes

_WORKER = """
SELECT pid FROM pg_stat_subscription WHERE subname = '{name}' AND pid IS NOT NULL AND latest_end_lsn IS NOT NULL
"""


class Native(Engine):
    """A subscription with its defaults on each follower."""

    name = "native"

    def start(self) -> None:
        with psycopg.connect(self.databases.leader, autocommit=True) as connection:
            connection.execute("CREATE PUBLICATION bench FOR TABLES IN SCHEMA public")
        for number, dsn in enumerate(self.databases.followers):
            with psycopg.connect(dsn, autocommit=True) as connection:
                connection.execute(
                    f"CREATE SUBSCRIPTION {self._subscription(number)} CONNECTION '{self.databases.leader}'"
                    " PUBLICATION bench WITH (copy_data = false)".encode()
                )

    def _subscription(self, number: int) -> str:
        return f"{self.databases.name}_{number}"

    def daemons(self) -> Processes:
        return {
            "apply": [
                worker
                for number, dsn in enumerate(self.databases.followers)
                for worker in processes.find(dsn, _WORKER.format(name=self._subscription(number)))
            ]
        }

    def helpers(self) -> Processes:
        return {"walsender": processes.walsenders(self.databases.leader)}

    def close(self) -> None:
        for dsn in self.databases.followers:
            with psycopg.connect(dsn, autocommit=True) as connection:
                for (name,) in connection.execute(
                    "SELECT subname FROM pg_subscription"
                    " WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())"
                ).fetchall():
                    connection.execute(f"DROP SUBSCRIPTION {name}".encode())
