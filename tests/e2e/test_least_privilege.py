"""The roles that the README asks for are enough: no superuser anywhere."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cdc.local import KafkaServer, PostgresServer
from tests.support.pipeline import FOLLOWER, Pipeline, run_sql

ORIGIN_FUNCTIONS = ", ".join(
    f"pg_replication_origin_{name}" for name in ("create", "oid", "session_setup", "xact_setup")
)
LEADER_DDL = (
    "CREATE TABLE item (id int PRIMARY KEY, v text)",
    "CREATE EXTENSION citext",
    "CREATE TABLE guarded (id serial PRIMARY KEY, who citext)",
    "ALTER TABLE guarded ENABLE ROW LEVEL SECURITY",
    "CREATE POLICY nobody ON guarded USING (false)",
    "INSERT INTO guarded (who) VALUES ('before')",
)


@pytest.fixture
def role() -> str:
    return f"cdc_{uuid.uuid4().hex[:8]}"


@pytest.fixture
def owned_databases(leader_server: PostgresServer, follower_server: PostgresServer, role: str) -> Iterator[list[str]]:
    """The dsns of a leader's and a follower's database for a role that owns them and may do what the README says."""
    with ExitStack() as stack:
        for server in (leader_server, follower_server):
            server.create_database(role)
            run_sql(server.dsn(), f"CREATE ROLE {role} LOGIN", f"ALTER DATABASE {role} OWNER TO {role}")
            stack.callback(run_sql, server.dsn(), f"DROP ROLE {role}")
            stack.callback(server.drop_database, role)
        run_sql(leader_server.dsn(), f"ALTER ROLE {role} REPLICATION")
        run_sql(follower_server.dsn(), f"GRANT SET ON PARAMETER session_replication_role TO {role}")
        stack.callback(run_sql, follower_server.dsn(), f"REVOKE SET ON PARAMETER session_replication_role FROM {role}")
        run_sql(follower_server.dsn(role), f"GRANT EXECUTE ON FUNCTION {ORIGIN_FUNCTIONS} TO {role}")
        yield [leader_server.dsn(role, user=role), follower_server.dsn(role, user=role)]


def test_roles_that_own_their_databases_replicate(
    owned_databases: list[str], kafka: KafkaServer, tmp_path: Path, postgres_version: int
):
    leader, follower = owned_databases
    with Pipeline(tmp_path, leader, {FOLLOWER: follower}, kafka.bootstrap_servers) as pipeline:
        # Given a group of such roles, when their leader is written to.
        pipeline.execute(*LEADER_DDL)
        pipeline.init().bootstrap().start()
        pipeline.execute(
            "INSERT INTO item SELECT i, 'v' FROM generate_series(1, 300) i",
            "UPDATE item SET v = 'w'; DELETE FROM item WHERE id % 2 = 0",
            "INSERT INTO guarded (who) VALUES ('after')",
            "TRUNCATE item RESTART IDENTITY; INSERT INTO item VALUES (5, 'z')",
        )
        pipeline.catch_up()

        # Then the follower is equal, and lag is known.
        pipeline.assert_equal("public.")
        pipeline.run("lag")
