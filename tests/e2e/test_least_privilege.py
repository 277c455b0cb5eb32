"""The roles that ops/roles makes are enough, and so are roles that own their databases: no superuser at work."""

from __future__ import annotations

import re
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import orjson
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from cdc.local import KafkaServer, PostgresServer
from cdc.local.postgres import SUPERUSER
from tests.fixtures.pipeline import Pipelines
from tests.support.pipeline import FOLLOWER, LEADER, Pipeline, rows_of, run_sql
from tests.support.promotion import in_epoch, promote

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
        let_it_follow(stack, follower_server, role)
        yield [leader_server.dsn(role, user=role), follower_server.dsn(role, user=role)]


def let_it_follow(stack: ExitStack, server: PostgresServer, role: str) -> None:
    run_sql(server.dsn(), f"GRANT SET ON PARAMETER session_replication_role TO {role}")
    stack.callback(run_sql, server.dsn(), f"REVOKE SET ON PARAMETER session_replication_role FROM {role}")
    run_sql(server.dsn(role), f"GRANT EXECUTE ON FUNCTION {ORIGIN_FUNCTIONS} TO {role}")


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


@pytest.mark.newest_first
def test_roles_that_own_their_databases_are_promoted_and_demoted(
    owned_databases: list[str], role: str, leader_server: PostgresServer, follower_server: PostgresServer,
    kafka: KafkaServer, tmp_path: Path, postgres_version: int,
):  # fmt: skip
    leader, follower = owned_databases
    with ExitStack() as stack:
        # Given roles that may lead and follow, on either node.
        run_sql(follower_server.dsn(), f"ALTER ROLE {role} REPLICATION")
        let_it_follow(stack, leader_server, role)
        pipeline = stack.enter_context(Pipeline(tmp_path, leader, {FOLLOWER: follower}, kafka.bootstrap_servers))
        pipeline.execute(*LEADER_DDL)
        pipeline.init().bootstrap().start()
        pipeline.start_apply(LEADER)
        pipeline.execute("INSERT INTO item SELECT i, 'v' FROM generate_series(1, 300) i")
        pipeline.catch_up()

        # When there is a switchover, and back, then nothing is lost and the other node follows.
        for epoch, (name, dsn) in enumerate([(FOLLOWER, follower), (LEADER, leader)], 2):
            report = promote(pipeline, name)
            assert (report["mode"], report["epoch"]) == ("planned", epoch)
            run_sql(dsn, f"INSERT INTO item VALUES ({1000 + epoch}, 'v')", "INSERT INTO guarded (who) VALUES ('x')")
            in_epoch(pipeline, epoch, name)
            pipeline.assert_all_equal(name)


ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "ops" / "roles"
SCRIPT_DDL = (
    "CREATE TABLE item (id serial PRIMARY KEY, v text, big text)",
    "ALTER TABLE item ALTER big SET STORAGE EXTERNAL",
    "CREATE TABLE keyless (a int, b text)",
    "ALTER TABLE keyless REPLICA IDENTITY FULL",
    "CREATE TABLE part (id int PRIMARY KEY, v text) PARTITION BY RANGE (id)",
    "CREATE TABLE part_low PARTITION OF part FOR VALUES FROM (0) TO (1000)",
    "CREATE TABLE guarded (id serial PRIMARY KEY, who text)",
    "ALTER TABLE guarded ENABLE ROW LEVEL SECURITY",
    "CREATE POLICY nobody ON guarded USING (false)",
    "INSERT INTO guarded (who) VALUES ('before')",
    "INSERT INTO item (v, big) SELECT i::text, repeat(md5(i::text), 300) FROM generate_series(1, 50) i",
)
WORK = (
    "INSERT INTO item (v) SELECT i::text FROM generate_series(1, 300) i",
    "UPDATE item SET v = 'w' WHERE id <= 50; DELETE FROM item WHERE id % 3 = 0",
    "UPDATE item SET id = id + 10000 WHERE id BETWEEN 20 AND 40",
    "INSERT INTO keyless SELECT i % 7, 'x' FROM generate_series(1, 20) i; UPDATE keyless SET b = 'y' WHERE a = 3",
    "DELETE FROM keyless WHERE a = 4",
    "INSERT INTO part SELECT i, 'p' FROM generate_series(1, 200) i; UPDATE part SET id = id + 500 WHERE id < 20",
    "INSERT INTO guarded (who) VALUES ('after'); UPDATE guarded SET who = 'later'",
    "SELECT pg_logical_emit_message(true, 'anything', 'at all')",
)


class Roles:
    """The roles of one group, named by their task, on both servers."""

    def __init__(self) -> None:
        tag = uuid.uuid4().hex[:8]
        self.owner, self.admin, self.capture, self.apply = (
            f'{task} "of {tag}' for task in ("owner", "admin", "capture", "apply")
        )

    def drop(self, server: PostgresServer) -> None:
        for role in (self.admin, self.capture, self.apply, self.owner):
            name = sql.Identifier(role).as_string(None)
            if rows_of(server.dsn(), f"SELECT FROM pg_roles WHERE rolname = {sql.Literal(role).as_string(None)}"):
                run_sql(server.dsn(), f"DROP OWNED BY {name}", f"DROP ROLE {name}")


@pytest.fixture
def roles(leader_server: PostgresServer, follower_server: PostgresServer) -> Iterator[Roles]:
    roles = Roles()
    name = sql.Identifier(roles.owner).as_string(None)
    for server in (leader_server, follower_server):
        run_sql(server.dsn(), f"CREATE ROLE {name} LOGIN")
    yield roles
    for server in (leader_server, follower_server):
        roles.drop(server)


def run_script(server: PostgresServer, dsn: str, script: str, **variables: str) -> None:
    settings = [f"--set={name}={value}" for name, value in variables.items()]
    done = subprocess.run(
        [server.bin_dir / "psql", "-X", "-q", *settings, "-f", SCRIPTS / script, dsn],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def as_role(dsn: str, role: str) -> str:
    return make_conninfo(dsn, user=role)


def log_in_as(pipeline: Pipeline, leader: str, follower: str) -> None:
    """What the configuration says from now on."""
    nodes = {LEADER: as_role(pipeline.leader, leader), FOLLOWER: as_role(pipeline.followers[FOLLOWER], follower)}
    pipeline.group.overrides["CDC_NODES"] = orjson.dumps({n: {"dsn": dsn} for n, dsn in nodes.items()}).decode()


@pytest.fixture
def scripted(
    roles: Roles, pipelines: Pipelines, leader_server: PostgresServer, follower_server: PostgresServer,
    postgres_version: int,
) -> Pipeline:  # fmt: skip
    """A group made by the admin's role and a superuser on the follower, that runs with the scripts' roles."""
    owner = sql.Identifier(roles.owner).as_string(None)
    pipeline = pipelines.new(
        f"GRANT ALL ON SCHEMA public TO {owner}", f"SET ROLE {owner}", *SCRIPT_DDL, version=postgres_version
    )
    leader, follower = pipeline.leader, pipeline.followers[FOLLOWER]
    for _ in range(2):
        run_script(leader_server, leader, "leader.sql", owner=roles.owner, admin=roles.admin, capture=roles.capture)
    log_in_as(pipeline, roles.admin, SUPERUSER)
    pipeline.init()
    log_in_as(pipeline, roles.capture, SUPERUSER)
    pipeline.bootstrap()
    for _ in range(2):
        run_script(follower_server, follower, "follower.sql", owner=roles.owner, apply=roles.apply)
    log_in_as(pipeline, roles.capture, roles.apply)
    return pipeline.start()


@pytest.mark.newest_first
def test_the_roles_of_the_scripts_replicate(scripted: Pipeline, roles: Roles, postgres_version: int):
    pipeline, follower = scripted, as_role(scripted.followers[FOLLOWER], roles.owner)
    # Given daemons of such roles, when the leader is written to, truncated, and both start again.
    pipeline.execute(*WORK)
    pipeline.catch_up()
    pipeline.assert_equal("public.")
    pipeline.execute("TRUNCATE item, part RESTART IDENTITY CASCADE", *WORK)
    pipeline.execute("INSERT INTO keyless SELECT i, repeat('x', 100) FROM generate_series(1, 15000) i")
    for name in ("capture", f"apply {FOLLOWER}"):
        assert pipeline.group.stop(name) == 0
    pipeline.execute("UPDATE item SET big = repeat('z', 5000) WHERE id < 10")
    pipeline.start()

    # And the schema changes, and a table joins later, made on the follower by the owner.
    writable = "SET default_transaction_read_only = off"
    change, join = (
        "ALTER TABLE item ADD COLUMN more text DEFAULT 'm'",
        "CREATE TABLE joined (id int PRIMARY KEY, v text)",
    )
    own = f"SET ROLE {sql.Identifier(roles.owner).as_string(None)}"
    run_sql(pipeline.leader, own, change, join)
    log_in_as(pipeline, roles.admin, roles.apply)
    pipeline.init()
    log_in_as(pipeline, roles.capture, roles.apply)
    run_sql(follower, writable, change, join)
    pipeline.execute(
        "UPDATE item SET more = 'n' WHERE id < 5", "INSERT INTO joined VALUES (1, 'x'), (2, 'y')", *WORK[:2]
    )
    pipeline.catch_up()

    # Then the follower is equal, read-only for the owner, and lag is known.
    pipeline.assert_equal("public.")
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        run_sql(follower, writable, "INSERT INTO joined VALUES (3, 'z')")
    pipeline.run("lag")


def test_what_keeps_rows_out_of_the_log_of_a_followers_server(
    scripted: Pipeline, roles: Roles, follower_server: PostgresServer, postgres_version: int
):
    follower, applier = scripted.followers[FOLLOWER], f"apply {FOLLOWER}"
    writable = "SET default_transaction_read_only = off"

    def logged(value: str, rows: int) -> str:
        """By the follower's server, of so many rows with that value, the last of which stops the applier."""
        run_sql(follower, writable, "ALTER TABLE item ADD CONSTRAINT few CHECK (id < 100000)")
        known = len(follower_server.log_path.read_text())
        scripted.execute(f"INSERT INTO item SELECT 100000 - {rows} + i, '{value}' FROM generate_series(1, {rows}) i")
        assert scripted.ends(applier) == 4
        told = follower_server.log_path.read_text()[known:]
        run_sql(follower, writable, "ALTER TABLE item DROP CONSTRAINT few")
        scripted.start_apply()
        scripted.execute("DELETE FROM item WHERE id > 90000")
        scripted.catch_up()
        return told

    for rows in (1, 1000):
        assert "in-the-log" in logged("in-the-log", rows)

    (told,) = re.findall(r"```sql\n(.*?)```", (ROOT / "ops" / "reference" / "security.md").read_text(), re.DOTALL)
    run_sql(follower, *told.replace("cdc_apply", sql.Identifier(roles.apply).as_string(None)).splitlines())
    assert scripted.group.stop(applier) == 0
    scripted.start_apply()
    for rows in (1, 1000):
        told = logged("kept-out", rows)
        assert 'violates check constraint "few"' in told
        assert "kept-out" not in told
    scripted.assert_equal("public.")


def test_the_roles_of_the_scripts_may_no_more(scripted: Pipeline, roles: Roles, postgres_version: int):
    leader, follower = as_role(scripted.leader, roles.capture), as_role(scripted.followers[FOLLOWER], roles.apply)
    supers = "SELECT FROM pg_roles WHERE (rolsuper OR rolcreaterole OR rolcreatedb) AND rolname = current_user"
    assert rows_of(leader, supers) == rows_of(follower, supers) == []
    for dsn, statement in (
        (leader, "INSERT INTO item (v) VALUES ('x')"),
        (leader, "UPDATE cdc.identity SET epoch = 7"),
        (leader, "CREATE TABLE x (i int)"),
        (leader, "CREATE SCHEMA x"),
        (follower, "DROP TABLE item"),
        (follower, "ALTER TABLE item ADD COLUMN y int"),
        (follower, "DROP TRIGGER cdc_read_only ON item"),
        (follower, "CREATE SCHEMA x"),
        (follower, "DELETE FROM cdc.position"),
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            run_sql(dsn, "SET default_transaction_read_only = off", statement)


def test_a_policy_that_hides_rows_from_the_copy_stops_it(
    roles: Roles, pipelines: Pipelines, leader_server: PostgresServer, postgres_version: int
):
    """Without an error the follower would lack them for ever."""
    # Given a leader whose role for the copy lacks BYPASSRLS.
    pipeline = pipelines.new(*SCRIPT_DDL, version=postgres_version)
    run_script(
        leader_server, pipeline.leader, "leader.sql", owner=roles.owner, capture=roles.capture, admin=roles.admin
    )
    run_sql(pipeline.leader, f"ALTER ROLE {sql.Identifier(roles.capture).as_string(None)} NOBYPASSRLS")
    pipeline.init()
    log_in_as(pipeline, roles.capture, SUPERUSER)

    # When a follower is bootstrapped, then it ends with the reason.
    done = pipeline.group.run("bootstrap", "--follower", FOLLOWER)
    assert done.returncode == 3
    assert "row-level security policy" in done.stderr
    assert "guarded" in done.stderr
