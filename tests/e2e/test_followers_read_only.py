"""A follower takes rows from its applier only."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.fixtures.pipeline import Pipelines
from tests.fixtures.servers import SharedServers
from tests.support.pipeline import FOLLOWER, Pipeline, rows_of, run_sql

DDL = (
    "CREATE TABLE plain (id int PRIMARY KEY, x text)",
    "CREATE TABLE parts (id int PRIMARY KEY, x text) PARTITION BY RANGE (id)",
    "CREATE TABLE parts_low PARTITION OF parts FOR VALUES FROM (0) TO (100)",
    "CREATE TABLE parts_high PARTITION OF parts FOR VALUES FROM (100) TO (200) PARTITION BY RANGE (id)",
    "CREATE TABLE parts_top PARTITION OF parts_high FOR VALUES FROM (150) TO (200)",
    "CREATE TABLE referring (id int PRIMARY KEY, plain int REFERENCES plain ON DELETE CASCADE)",
    "INSERT INTO plain VALUES (1, 'one')",
    "INSERT INTO parts VALUES (1, 'one'), (160, 'many')",
    "INSERT INTO referring VALUES (1, 1)",
)
TABLES = ["plain", "referring", "parts", "parts_low", "parts_high", "parts_top"]
WRITES = [
    "INSERT INTO {table} (id) VALUES (155)",
    "UPDATE {table} SET id = id WHERE id < 0",
    "UPDATE {table} SET id = id",
    "DELETE FROM {table}",
    "TRUNCATE {table} CASCADE",
    "COPY {table} (id) FROM PROGRAM 'echo 1'",
    "MERGE INTO {table} t USING (SELECT 1 AS id) s ON t.id = s.id WHEN MATCHED THEN DELETE",
]
WRITABLE = "SET default_transaction_read_only = off"


@pytest.fixture(scope="module")
def pipeline(module_pipelines: Pipelines) -> Pipeline:
    pipeline = module_pipelines.new(*DDL).init().bootstrap().start()
    pipeline.catch_up()
    return pipeline


@pytest.fixture(scope="module")
def application(pipeline: Pipeline, shared_servers: SharedServers) -> Iterator[str]:
    """The follower's dsn of a normal role with every grant on every table."""
    follower = pipeline.followers[FOLLOWER]
    name = f"app_{pipeline.name}"
    run_sql(
        follower,
        WRITABLE,
        f"CREATE ROLE {name} LOGIN",
        f"GRANT pg_write_all_data, pg_read_all_data, pg_execute_server_program TO {name}",
        f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {name}",
        f"GRANT ALL ON SCHEMA public TO {name}",
    )
    yield follower.replace("postgres@", f"{name}@", 1)
    run_sql(follower, WRITABLE, f"DROP OWNED BY {name}", f"DROP ROLE {name}")


def refusal(dsn: str, *statements: str) -> psycopg.Error:
    """What the last statement is refused with."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements[:-1]:
            connection.execute(statement)
        with pytest.raises(psycopg.Error) as caught:
            connection.execute(statements[-1])
    return caught.value


@pytest.mark.parametrize("table", TABLES)
def test_no_write_of_a_normal_role_gets_through(pipeline: Pipeline, application: str, table: str):
    for write in WRITES:
        statement = write.format(table=table)
        assert refusal(application, statement).sqlstate == "25006", statement
        error = refusal(application, WRITABLE, statement)
        assert error.sqlstate == "25006", (statement, error)
        assert "this database is a follower" in (error.diag.message_primary or "")
        assert error.diag.message_hint == "Write to the leader."
    pipeline.assert_equal()


@pytest.mark.parametrize(
    "statement",
    [
        "SET session_replication_role = replica",
        "ALTER TABLE plain DISABLE TRIGGER cdc_read_only",
        "DROP TRIGGER cdc_read_only ON plain",
        "DROP TABLE plain",
        "CREATE OR REPLACE FUNCTION cdc.refuse_write() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "ALTER DATABASE {database} SET default_transaction_read_only = off",
    ],
    ids=["role", "disable", "drop", "drop-table", "function", "database"],
)
def test_a_normal_role_cannot_switch_it_off(application: str, statement: str):
    database = conninfo_to_dict(application)["dbname"]
    error = refusal(application, WRITABLE, statement.format(database=f'"{database}"'))
    assert error.sqlstate == "42501", error


def test_the_bookkeeping_can_be_read_and_not_written(application: str):
    assert len(rows_of(application, "SELECT commit_lsn FROM cdc.position")) == 1
    for table in ("position", "relation", "bootstrap"):
        error = refusal(application, WRITABLE, f"DELETE FROM cdc.{table}")
        assert error.sqlstate == "25006", error


def test_what_the_leader_writes_still_arrives(pipeline: Pipeline, application: str):
    pipeline.execute("INSERT INTO parts VALUES (2, 'two'), (170, 'more')", "DELETE FROM plain")
    pipeline.catch_up()
    pipeline.assert_equal()
    assert rows_of(application, "SELECT count(*) FROM parts") == [(4,)]
    assert rows_of(application, "SELECT count(*) FROM referring") == [(0,)]


def test_a_client_that_wants_to_write_is_led_to_the_leader(pipeline: Pipeline):
    """One dsn with all hosts: `target_session_attrs` tells them apart."""
    leader, follower = (conninfo_to_dict(dsn) for dsn in (pipeline.leader, pipeline.followers[FOLLOWER]))
    # libpq takes one database name for all hosts
    run_sql(pipeline.leader.rpartition("/")[0] + "/postgres", f'CREATE DATABASE "{follower["dbname"]}"')
    try:
        hosts = make_conninfo(
            host=f"{follower['host']},{leader['host']}",
            port=f"{follower['port']},{leader['port']}",
            dbname=str(follower["dbname"]),
            user="postgres",
        )
        for wanted, port in (("read-write", leader["port"]), ("read-only", follower["port"])):
            with psycopg.connect(make_conninfo(hosts, target_session_attrs=wanted)) as connection:
                assert str(connection.info.port) == str(port)
    finally:
        run_sql(pipeline.leader.rpartition("/")[0] + "/postgres", f'DROP DATABASE "{follower["dbname"]}"')
