"""What the leader holds is what the follower holds, byte for byte as text, whatever was done to the rows.

All cases share one group a PostgreSQL version, whose two databases disagree on every setting that text depends on.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from connectors.postgres.target import ROWS_IN_ARRAYS
from tests.fixtures.pipeline import Pipelines
from tests.fixtures.servers import NEWEST, SYSTEM, SharedServers
from tests.support.cases import NOISE, Case, read_cases, type_cases
from tests.support.pipeline import FOLLOWER, OTHER_FOLLOWER, Pipeline, set_for_database
from tests.support.values import TYPES_DDL

CASES = [*type_cases(), *read_cases(Path(__file__).with_name("fidelity.sql"))]
COUNTS = {"few": 6, "many": 150, "plenty": ROWS_IN_ARRAYS + 100}
"""Rows of a transaction: one by one, as arrays, by COPY."""
ODD_SCHEMA = 'odd "schema" %s.x'
ODD_PATTERN = 'odd \\"schema\\" %s?x.*'  # in TOML, and a dot ends the name of a schema
FALLBACK = "a set did not meet exactly its rows"
EXCHANGES = ("swap", "nulls_alike")
"""Cases in which rows of a transaction exchange unique values, which a set of updates may refuse."""

LEADER_SETTINGS = {
    "DateStyle": "German, DMY", "IntervalStyle": "sql_standard", "TimeZone": "Asia/Kathmandu", "bytea_output": "escape",
    "extra_float_digits": "-15", "array_nulls": "off", "standard_conforming_strings": "off", "search_path": "nowhere",
    "xmloption": "document", "quote_all_identifiers": "on", "default_transaction_isolation": "serializable",
    "statement_timeout": "60s",
}  # fmt: skip
FOLLOWER_SETTINGS = {
    "DateStyle": "SQL, MDY", "IntervalStyle": "iso_8601", "TimeZone": "America/St_Johns", "bytea_output": "escape",
    "extra_float_digits": "0", "array_nulls": "off", "standard_conforming_strings": "off", "search_path": "elsewhere",
    "xmloption": "document", "backslash_quote": "off", "default_transaction_isolation": "serializable",
    "lock_timeout": "1s", "transform_null_equals": "on",
}  # fmt: skip
# What the statements of the cases are written in.
PLAIN = (
    "-c DateStyle=ISO -c IntervalStyle=postgres -c TimeZone=UTC -c array_nulls=on -c xmloption=content "
    "-c standard_conforming_strings=on "
    "-c default_transaction_isolation=read\\ committed -c search_path={schema},public"
)


def differing_settings(leader: str, followers: list[str]) -> None:
    set_for_database(leader, **LEADER_SETTINGS)
    for follower in followers:
        set_for_database(follower, **FOLLOWER_SETTINGS)


def transact(pipeline: Pipeline, schema: str, statements: str) -> None:
    """One transaction on the leader; names without a schema are in `schema`."""
    pipeline.execute(f"BEGIN; {statements}; COMMIT", settings=PLAIN.replace("{schema}", schema))


def make_tables(pipeline: Pipeline, schema: str, cases: list[Case]) -> None:
    pipeline.execute(f"CREATE SCHEMA {schema}")
    for case in cases:
        transact(pipeline, schema, case.setup.replace(":schema", schema))


@pytest.fixture
def group(module_pipelines: Pipelines, postgres_version: int) -> Pipeline:
    """A running group with the tables of all cases, in a schema for each number of rows."""

    def build() -> Pipeline:
        pipeline = module_pipelines.new(
            version=postgres_version, prepare=differing_settings, followers=(FOLLOWER, OTHER_FOLLOWER),
            tables=(*(f"{schema}.*" for schema in COUNTS), ODD_PATTERN), kafka={"max_record_bytes": 300_000},
        )  # fmt: skip
        quoted = '"' + ODD_SCHEMA.replace('"', '""') + '"'
        pipeline.execute(
            *TYPES_DDL, NOISE, f"CREATE SCHEMA {quoted}", f"CREATE TABLE {quoted}.t (id int PRIMARY KEY, v text)"
        )
        for schema in COUNTS:
            make_tables(pipeline, schema, [case for case in CASES if case.runs_on(postgres_version)])
        return pipeline.init().bootstrap(FOLLOWER).start(FOLLOWER)

    return module_pipelines.kept(postgres_version, build)


@pytest.mark.parametrize("rows", list(COUNTS))
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_rows_of_the_follower_are_those_of_the_leader(postgres_version: int, group: Pipeline, case: Case, rows: str):
    if not case.runs_on(postgres_version):
        pytest.skip(f"PostgreSQL {postgres_version} refuses this on a published table, or has no such thing")
    # When a case runs on the leader, one transaction after the other.
    said_before = len(group.log_of(f"apply {FOLLOWER}"))
    for transaction in case.transactions(COUNTS[rows]):
        transact(group, rows, transaction)
    group.catch_up(FOLLOWER)

    # Then the follower holds the same, and sets were right at the first go, but where rows exchange unique values.
    group.assert_equal((f"{rows}.{case.name}", f"{rows}_private.{case.name}"), FOLLOWER)
    said = group.log_of(f"apply {FOLLOWER}")[said_before:]
    assert case.name in EXCHANGES or FALLBACK not in said


def test_steps_of_a_case_in_one_transaction_come_to_the_same(postgres_version: int, group: Pipeline):
    # Given a table of many net effects, when all its steps are one transaction.
    case = next(case for case in CASES if case.name == "net")
    transact(group, "many", ";".join(["TRUNCATE net", *case.transactions(150)]))
    group.catch_up(FOLLOWER)

    group.assert_equal("many.net", FOLLOWER)


def test_schema_with_an_odd_name(postgres_version: int, group: Pipeline):
    quoted = '"' + ODD_SCHEMA.replace('"', '""') + '"'
    transact(group, "few", f"INSERT INTO {quoted}.t SELECT i, 'x' FROM generate_series(1, 300) i")
    transact(group, "few", f"UPDATE {quoted}.t SET v = 'y'; DELETE FROM {quoted}.t WHERE id % 2 = 0")
    group.catch_up(FOLLOWER)

    group.assert_equal(f"{ODD_SCHEMA}.t", FOLLOWER)


def test_rows_that_were_there_before_are_copied_the_same(postgres_version: int, group: Pipeline):
    # Given a leader that every case has written to, when another follower is bootstrapped from it.
    group.bootstrap(OTHER_FOLLOWER)

    # Then the copy alone made it equal.
    group.assert_equal((*(f"{schema}." for schema in COUNTS), ODD_SCHEMA), OTHER_FOLLOWER)


def test_follower_of_a_newer_version_holds_the_rows_of_an_older_leader(
    pipelines: Pipelines, shared_servers: SharedServers
):
    # Given a leader of the system's PostgreSQL and a follower of the newest.
    cases = [case for case in CASES if case.runs_on(SYSTEM) and case.runs_on(NEWEST)]
    older = pipelines.new(
        *TYPES_DDL, NOISE, leader=shared_servers.get("leader", SYSTEM), tables=("many.*",),
        kafka={"max_record_bytes": 300_000},
    )  # fmt: skip
    make_tables(older, "many", cases)
    older.init().bootstrap().start()

    # When every case runs on the leader.
    for case in cases:
        for transaction in case.transactions(COUNTS["many"]):
            transact(older, "many", transaction)
    older.catch_up()

    older.assert_equal("many.")
