"""Who wrote on the leader waits on a follower until it shows the write: as any role, under load, across promotions."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from cdc.local import PostgresServer
from tests.fixtures.pipeline import Pipelines
from tests.fixtures.servers import SharedServers
from tests.support.bank import BANK, Bank
from tests.support.pipeline import FOLLOWER, LEADER, OTHER_FOLLOWER, Pipeline, rows_of, run_sql
from tests.support.promotion import promote

# Starting servers of another version for it takes longer than all the rest.
pytestmark = pytest.mark.newest_first

TABLE = "CREATE TABLE note (id serial PRIMARY KEY, text text)"
TOKEN = "SELECT epoch || '/' || pg_current_wal_insert_lsn() FROM cdc.identity"
WRITES = 40


@pytest.fixture
def group(module_pipelines: Pipelines, postgres_version: int) -> Pipeline:
    """With the bank, and a table to write to."""

    def build() -> Pipeline:
        return module_pipelines.new(*BANK, TABLE, version=postgres_version).init().bootstrap().start()

    return module_pipelines.kept(postgres_version, build)


@pytest.fixture
def reader(group: Pipeline, follower_server: PostgresServer) -> Iterator[str]:
    """The dsn of a role that may read one table of the follower, and nothing else."""
    name = f"reader_{uuid.uuid4().hex[:8]}"
    dsn = group.followers[FOLLOWER]
    writable = "SET default_transaction_read_only = off"
    run_sql(dsn, writable, f"CREATE ROLE {name} LOGIN", f"GRANT SELECT ON note TO {name}")
    yield make_conninfo(dsn, user=name)
    run_sql(dsn, writable, f"DROP OWNED BY {name}", f"DROP ROLE {name}")


def write(pipeline: Pipeline, text: str) -> str:
    """The token of a row that is committed."""
    pipeline.execute(f"INSERT INTO note (text) VALUES ('{text}')")
    token: str = rows_of(pipeline.leader, TOKEN)[0][0]
    return token


def wait_for(dsn: str, wanted: str, seconds: float = 30.0) -> bool:
    found: bool = rows_of(dsn, f"SELECT cdc.wait_for('{wanted}', make_interval(secs => {seconds}))")[0][0]
    return found


def test_a_role_that_may_only_read_finds_each_of_its_writes_under_load(
    group: Pipeline, reader: str, postgres_version: int
):
    with Bank(group.leader) as bank, psycopg.connect(reader, autocommit=True) as follower:
        bank.transacts(5)
        for number in range(WRITES):
            text = f"{number} {uuid.uuid4()}"
            token = write(group, text)
            lsn = token.partition("/")[2]
            with follower.transaction():
                # Inside a transaction too: each of its statements sees what is committed when it begins.
                query = "SELECT cdc.wait_for(%s, interval '30 s')" if number % 2 else "SELECT cdc.wait_for(%s::pg_lsn)"
                assert follower.execute(query, (token if number % 2 else lsn,)).fetchone() == (True,)
                assert follower.execute("SELECT count(*) FROM note WHERE text = %s", (text,)).fetchone() == (1,)


def test_what_is_not_there_in_time_is_false(group: Pipeline, reader: str, postgres_version: int):
    assert not wait_for(reader, "1/FFFFFFFF/FFFFFFFF", 0.2)
    assert not wait_for(reader, "FFFFFFFF/FFFFFFFF", 0)
    assert not wait_for(reader, "9/0/1", 0.2), "an epoch that has not begun here"


def test_where_waiting_would_show_nothing_new_it_is_an_error(group: Pipeline, reader: str, postgres_version: int):
    for level in ("REPEATABLE READ", "SERIALIZABLE"):
        with psycopg.connect(reader) as connection:
            connection.execute(f"SET TRANSACTION ISOLATION LEVEL {level}")
            with pytest.raises(psycopg.errors.ActiveSqlTransaction):
                connection.execute("SELECT cdc.wait_for('0/1')")
    for wrong in ("", "0", "1/2/3/4", "x/0/1", "0/123456789"):
        with pytest.raises(psycopg.errors.InvalidParameterValue):
            wait_for(reader, wrong)


def test_the_commands_do_the_same(group: Pipeline):
    group.execute("INSERT INTO note (text) VALUES ('by command')")
    told = json.loads(group.run("token", "--json"))
    assert told["token"] == f"{told['epoch']}/{told['lsn']}"
    for name, wanted in (("--token", told["token"]), ("--lsn", told["lsn"])):
        assert FOLLOWER in group.run("wait", "--follower", FOLLOWER, name, wanted)
    assert rows_of(group.followers[FOLLOWER], "SELECT count(*) FROM note WHERE text = 'by command'") == [(1,)]

    late = group.group.run("wait", "--follower", FOLLOWER, "--lsn", "FFFFFFFF/0", "--timeout", "0.1")
    assert (late.returncode, late.stdout) == (3, "")
    assert late.stderr == f"cdc: {FOLLOWER}: does not show FFFFFFFF/0 after 0.1 s. To do: see cdc lag\n"
    for arguments in (["--token", "0/1"], ["--lsn", "x"], [], ["--lsn", "0/1", "--token", "1/0/1"]):
        assert group.group.run("wait", "--follower", FOLLOWER, *arguments).returncode == 2
    unknown = group.group.run("wait", "--follower", LEADER, "--lsn", "0/1")
    assert (unknown.returncode, unknown.stderr.count("\n")) == (3, 1)


@pytest.mark.long
def test_after_a_promotion_a_token_says_whether_its_write_is_there(
    pipelines: Pipelines, shared_servers: SharedServers, tmp_path: Path
):
    servers = {OTHER_FOLLOWER: shared_servers.get("other follower")}
    pipeline = pipelines.new(TABLE, followers=(FOLLOWER, OTHER_FOLLOWER), servers=servers).init().bootstrap().start()
    pipeline.start_apply(LEADER)

    # Given a planned switchover, then what was written before it is everywhere.
    before = write(pipeline, "before")
    promote(pipeline, FOLLOWER)
    for dsn in pipeline.nodes.values():
        assert wait_for(dsn, before)
        assert rows_of(dsn, "SELECT count(*) FROM note WHERE text = 'before'") == [(1,)]
    # And the new leader shows its own writes, the others when they have them.
    run_sql(pipeline.nodes[FOLLOWER], "INSERT INTO note (id, text) VALUES (1000, 'after')")
    after = pipeline.run("token").strip()
    assert after.startswith("2/")
    for dsn in pipeline.nodes.values():
        assert wait_for(dsn, after)
        assert rows_of(dsn, "SELECT count(*) FROM note WHERE text = 'after'") == [(1,)]

    # Given a leader that is lost with a write that nobody else has, then that is told, and the rest is there.
    pipeline.group.kill("capture")
    leader = pipeline.nodes[FOLLOWER]
    run_sql(leader, "INSERT INTO note (id, text) VALUES (1001, 'lost')")
    lost = f"2/{rows_of(leader, 'SELECT pg_current_wal_insert_lsn()')[0][0]}"
    cut_off = tmp_path / "cut-off.toml"
    cut_off.write_text(pipeline.group.config.read_text().replace(leader, "postgresql://127.0.0.1:1/nowhere"))
    promote(pipeline, OTHER_FOLLOWER, "--leader-is-dead", "test", "--config", str(cut_off))
    for wanted in (before, after):
        assert wait_for(pipeline.nodes[OTHER_FOLLOWER], wanted)
    with pytest.raises(psycopg.errors.DatabaseError, match="not known to have been carried over") as refused:
        wait_for(pipeline.nodes[OTHER_FOLLOWER], lost)
    assert refused.value.sqlstate == "CDC01"
    told = pipeline.group.run("wait", "--follower", OTHER_FOLLOWER, "--token", lost)
    assert (told.returncode, "take a new token" in told.stderr) == (3, True)
