"""A follower that cannot take what comes: the applier waits, says why, skips nothing and goes on by itself."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import psutil
import psycopg
import pytest

from cdc.local import PostgresServer
from cdc.local.processes import wait_for
from tests.fixtures.pipeline import Pipelines
from tests.fixtures.servers import OwnPostgres, SharedServers
from tests.support.bank import BANK, Bank, BankWatch
from tests.support.disk import small_disk
from tests.support.pipeline import FOLLOWER, Pipeline, rows_of, run_sql, set_for_database
from tests.support.watched import APPLY, DAEMONS, MEGABYTE, wait_until_apply_waits_for_a_lock

pytestmark = [pytest.mark.faults, pytest.mark.newest_first]

WRITE = "SET default_transaction_read_only = off"
WRITABLE = "-c default_transaction_read_only=off -c session_replication_role=replica"
BIG = "CREATE TABLE big (id int PRIMARY KEY, x text NOT NULL)"
FILL = "INSERT INTO big SELECT i, repeat(md5(i::text), 30) FROM generate_series({}, {}) i"
"""A kilobyte a row."""


@pytest.fixture(scope="module")
def own_servers() -> Iterator[SharedServers]:
    with ExitStack() as stack:
        yield SharedServers(stack)


@pytest.fixture
def own_follower(own_servers: SharedServers, postgres_version: int) -> PostgresServer:
    """The follower's server, which tests of this module may stop."""
    return own_servers.get("follower", postgres_version)


@pytest.fixture
def pipeline(module_pipelines: Pipelines, own_follower: PostgresServer, postgres_version: int) -> Pipeline:
    """The bank on a leader, and everything running."""

    def build() -> Pipeline:
        def look_late_for_deadlocks(leader: str, followers: list[str]) -> None:
            set_for_database(followers[0], deadlock_timeout="3s")

        pipeline = module_pipelines.new(
            *BANK, BIG, version=postgres_version, follower=own_follower, prepare=look_late_for_deadlocks
        )
        return pipeline.init().bootstrap().start()

    return module_pipelines.kept(postgres_version, build)


@contextmanager
def under_load(pipeline: Pipeline) -> Iterator[Bank]:
    """The bank works meanwhile; in the end, every look at the follower was right, all rows are there, nobody ended."""
    with BankWatch(pipeline.followers[FOLLOWER]) as watch:
        with Bank(pipeline.leader, pause_seconds=0.01) as bank:
            bank.transacts(10)
            yield bank
            bank.transacts(30)
        pipeline.catch_up()
        watch.check()
    pipeline.assert_equal()
    pipeline.check_running(*DAEMONS)


@contextmanager
def told(pipeline: Pipeline, *words: str, seconds: float = 30.0) -> Iterator[None]:
    """What happens inside, the applier says in one line with all of `words`; waits for that."""
    before = len(pipeline.log_of(APPLY))
    yield

    def said() -> bool:
        lines = pipeline.log_of(APPLY)[before:].splitlines()
        return any(all(word in line for word in words) for line in lines)

    assert wait_for(said, seconds=seconds), pipeline.group.tail_of_logs()


def appliers(pipeline: Pipeline) -> int:
    """Sessions of ours on the follower."""
    query = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'cdc %'"
    return len(rows_of(pipeline.followers[FOLLOWER], query))


def lag_bytes(pipeline: Pipeline) -> int:
    """Of the follower, as `cdc lag` says it."""
    found = re.search(r'"followers":\[\{"name":"[^"]+","lag_bytes":(\d+)', pipeline.run("lag", "--json"))
    assert found
    return int(found[1])


def test_a_postmaster_that_is_killed_in_the_middle_of_a_batch_leaves_no_part_of_it(
    pipeline: Pipeline, own_follower: PostgresServer
):
    dsn = pipeline.followers[FOLLOWER]
    with under_load(pipeline):
        with suppress(psycopg.OperationalError), psycopg.connect(dsn, options=WRITABLE) as keeper:
            before = pipeline.position()
            # The applier commits asynchronously (decision 0007): this commit flushes what it had committed before. One
            # without a record of its own in the WAL would not.
            keeper.execute("SELECT pg_logical_emit_message(true, 'test', '')")
            keeper.commit()
            keeper.execute("SELECT FROM counter FOR UPDATE")
            # More than one piece: its ledger rows are written when the applier comes to the locked counter.
            pipeline.transact(
                "INSERT INTO account SELECT i, 0, 'new' FROM generate_series(1000, 12000) i",
                "DELETE FROM account WHERE id >= 1000",
                "UPDATE counter SET n = n",
            )
            wait_until_apply_waits_for_a_lock(pipeline)
            own_follower.kill()
        own_follower.start()
        assert pipeline.position() >= before
        pipeline.catch_up()


def test_a_follower_in_recovery_is_tried_again_and_nothing_is_skipped(pipeline: Pipeline, own_follower: PostgresServer):
    with under_load(pipeline) as bank:
        with told(pipeline, "25006", "trying again"):
            own_follower.stop()
            (own_follower.data_dir / "standby.signal").touch()
            own_follower.start()
            stands = pipeline.position()
            bank.transacts(20)
        assert pipeline.position() == stands
        assert rows_of(own_follower.dsn(), "SELECT pg_promote()") == [(True,)]
        pipeline.catch_up()


@pytest.mark.long
def test_a_lock_on_a_table_holds_one_session_and_says_who_holds_it(pipeline: Pipeline):
    check_lock(pipeline, seconds=11.0)


@pytest.mark.long
def test_a_lock_for_minutes_holds_one_session(pipeline: Pipeline):
    check_lock(pipeline, seconds=180.0)


def check_lock(pipeline: Pipeline, seconds: float) -> None:
    with under_load(pipeline) as bank:
        started = time.monotonic()
        before = pipeline.log_of(APPLY).count("waits for a lock")

        def long_enough() -> bool:
            held = time.monotonic() - started
            return held > seconds + 30 or (held > seconds and pipeline.log_of(APPLY).count("waits for a lock") > before)

        with (
            told(pipeline, "waits for a lock", "night job", "pid"),
            psycopg.connect(pipeline.followers[FOLLOWER], options=WRITABLE, application_name="night job") as keeper,
        ):
            keeper.execute("LOCK TABLE counter IN SHARE MODE")
            lags = []
            while not long_enough():
                bank.transacts(30)
                assert appliers(pipeline) <= 2, "the applier, and now and then its look at the lock"
                lags.append(lag_bytes(pipeline))
            assert lags[0] > 0
            assert lags == sorted(lags)
        pipeline.catch_up()
        attempts = pipeline.log_of(APPLY).count("trying again")
    assert pipeline.log_of(APPLY).count("trying again") == attempts


def test_a_lock_holds_back_nothing_that_was_committed_before(pipeline: Pipeline):
    dsn = pipeline.followers[FOLLOWER]
    pipeline.group.stop(APPLY)
    # All of it is in one window.
    pipeline.execute(
        "INSERT INTO big VALUES (-1, 'before')", "UPDATE counter SET n = n", "INSERT INTO big VALUES (-2, 'after')"
    )
    with psycopg.connect(dsn, options=WRITABLE) as keeper:
        keeper.execute("LOCK TABLE counter IN SHARE MODE")
        pipeline.start_apply()
        assert wait_for(lambda: rows_of(dsn, "SELECT id FROM big WHERE id < 0") == [(-1,)], seconds=40)
        wait_until_apply_waits_for_a_lock(pipeline)
    pipeline.catch_up()
    pipeline.assert_equal()
    pipeline.execute("DELETE FROM big WHERE id < 0")


def test_a_deadlock_with_a_local_session_is_got_over(pipeline: Pipeline):
    dsn = pipeline.followers[FOLLOWER]
    with told(pipeline, "deadlock detected (40P01)", "trying again"), psycopg.connect(dsn, options=WRITABLE) as local:
        # Each looks for a deadlock once, when it has waited that long. Ours looks first, and is the victim.
        local.execute("SET deadlock_timeout = '60s'")
        local.execute("SELECT FROM account WHERE id = 2 FOR UPDATE")
        pipeline.transact("UPDATE account SET note = 'a' WHERE id = 1", "UPDATE account SET note = 'a' WHERE id = 2")
        wait_until_apply_waits_for_a_lock(pipeline)
        local.execute("SELECT FROM account WHERE id = 1 FOR UPDATE")
        local.rollback()
    pipeline.catch_up()
    pipeline.assert_equal()


@pytest.mark.skipif(shutil.which("prlimit") is None, reason="prlimit of util-linux is not installed")
def test_a_follower_without_memory_for_a_value_is_tried_again_and_nothing_is_skipped(
    pipeline: Pipeline, own_follower: PostgresServer
):
    dsn = pipeline.followers[FOLLOWER]
    has = psutil.Process(own_follower.pid).memory_info().vms

    def limit(size: str) -> None:
        """Of the server, which its new sessions inherit. Its own account may do it, ours perhaps not."""
        run_sql(dsn, f"COPY (SELECT) TO PROGRAM 'prlimit --pid {own_follower.pid} --as={size}:'")

    with under_load(pipeline) as bank:
        with told(pipeline, "out of memory (53200)", "trying again"):
            limit(str(has + 48 * MEGABYTE))
            pipeline.group.stop(APPLY)
            pipeline.start_apply()
            pipeline.execute(f"INSERT INTO big VALUES (-10, repeat('0123456789abcdef', {4 * MEGABYTE}))")
            stands = pipeline.mark()
            bank.transacts(10)
        assert pipeline.position() < stands
        limit("unlimited")
        pipeline.catch_up()
    pipeline.execute("DELETE FROM big WHERE id < 0")


def test_a_full_disk_holds_the_follower_until_space_is_freed(pipeline: Pipeline, own_follower: PostgresServer):
    dsn = pipeline.followers[FOLLOWER]
    with small_disk(own_follower.data_dir.parent / "disk", 16 * MEGABYTE) as disk:
        (disk.folder / "tables").mkdir()
        disk.give_to_owner_of(own_follower.data_dir)
        run_sql(
            dsn,
            WRITE,
            f"CREATE TABLESPACE small LOCATION '{disk.folder}/tables'",
            "ALTER TABLE big SET TABLESPACE small",
        )
        disk.fill(leave=MEGABYTE)
        with under_load(pipeline) as bank:
            with told(pipeline, "53100", "free space"):
                pipeline.execute(FILL.format(1, 5000))
                stands = pipeline.mark()
                bank.transacts(10)
            assert pipeline.position() < stands
            assert rows_of(dsn, "SELECT count(*) FROM big") == [(0,)]
            disk.free()
            pipeline.catch_up()
        run_sql(dsn, WRITE, "ALTER TABLE big SET TABLESPACE pg_default", "DROP TABLESPACE small")


@pytest.mark.long
def test_a_follower_that_crashes_for_want_of_space_for_its_wal_goes_on(pipelines: Pipelines, own_postgres: OwnPostgres):
    server = own_postgres(settings={"min_wal_size": "32MB", "max_wal_size": "48MB"})
    pipeline = pipelines.new(*BANK, BIG, follower=server).init().bootstrap()
    wal = server.data_dir / "pg_wal"
    server.stop()
    with small_disk(server.data_dir.parent / "disk", 128 * MEGABYTE) as disk:
        shutil.copytree(wal, disk.folder / "wal")
        disk.give_to_owner_of(server.data_dir)
        shutil.rmtree(wal)
        wal.symlink_to(disk.folder / "wal")
        server.start()
        pipeline.start()
        with under_load(pipeline):
            disk.fill()
            with told(pipeline, "trying again"):
                pipeline.execute(FILL.format(1, 80_000))
                crashed = "could not write|No space left"
                assert wait_for(lambda: re.search(crashed, server.tail_of_log(200)) is not None, seconds=30)
            disk.free()
            if not wait_for(lambda: answers(server), seconds=5):
                server.stop("immediate")
                server.start()
            pipeline.catch_up()
        pipeline.close()
        server.close()


def answers(server: PostgresServer) -> bool:
    try:
        psycopg.connect(server.dsn(), connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True
