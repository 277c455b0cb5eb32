"""A whole group for one test: databases of a leader and its followers, and the `cdc` commands between them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
import psycopg
import pytest
from psycopg import sql

from cdc.local.group import Group
from cdc.local.processes import tail_of, wait_for
from tests.support.contents import contents, digests

LEADER = "us-east"
FOLLOWER = "eu-west"
OTHER_FOLLOWER = "ap-south"
QUICK_HEARTBEAT = "heartbeat_seconds = 0.2"


class Pipeline:
    """`leader` is a dsn, `followers` are dsns by name. Daemons are named as in `Group`: `capture`, `apply eu-west`.

    Closing it stops the daemons and calls what `on_close` was given.
    """

    def __init__(
        self,
        folder: Path,
        leader: str,
        followers: Mapping[str, str],
        bootstrap_servers: str,
        *,
        name: str | None = None,
        tables: Iterable[str] = ("public.*",),
        kafka: Mapping[str, int | str] | None = None,
        extra: str = QUICK_HEARTBEAT,
    ) -> None:
        self.leader = leader
        self.followers = dict(followers)
        self.nodes = {LEADER: leader, **followers}
        self.kafka_servers = bootstrap_servers
        self.name = name or f"g{uuid.uuid4().hex[:10]}"
        self.group = Group(
            folder, self.name, LEADER, {LEADER: leader, **followers}, bootstrap_servers, tables, kafka, extra
        )
        self._started: set[str] = set()
        self._closing = ExitStack()

    # the leader

    def execute(self, *statements: str, settings: str = "") -> None:
        """Each statement a transaction of its own on the leader."""
        with psycopg.connect(self.leader, autocommit=True, options=settings) as connection:
            for statement in statements:
                connection.execute(statement)

    def transact(self, *statements: str) -> None:
        """All statements in one transaction of the leader."""
        with psycopg.connect(self.leader) as connection:
            for statement in statements:
                connection.execute(statement)

    def mark(self) -> int:
        """An LSN of the leader after everything that is committed now, and before a commit that follows."""
        with psycopg.connect(self.leader, autocommit=True, options="-c statement_timeout=0") as connection:
            row = connection.execute("SELECT pg_logical_emit_message(true, 'test', '') - '0/0'::pg_lsn").fetchone()
        assert row is not None
        return int(row[0])

    # the commands

    def run(self, *arguments: str, seconds: float = 60.0) -> str:
        """A command that must succeed; its standard output."""
        done = self.group.run(*arguments, seconds=seconds)
        assert done.returncode == 0, f"cdc {' '.join(arguments)} ended with {done.returncode}:\n{done.stderr}"
        return done.stdout

    def init(self) -> Self:
        self.run("init")
        return self

    def bootstrap(self, *names: str) -> Self:
        for name in names or self.followers:
            self.run("bootstrap", "--follower", name)
        return self

    def start(self, *followers: str) -> Self:
        """Capture, and the appliers of all followers or of those."""
        self.start_capture()
        for name in followers or self.followers:
            self.start_apply(name)
        return self

    def start_capture(self, failpoint: str | None = None) -> None:
        self.group.start("capture", failpoint=failpoint)
        self._started.add("capture")

    def start_apply(self, name: str = FOLLOWER, failpoint: str | None = None) -> None:
        self.group.start("apply", name, failpoint=failpoint)
        self._started.add(f"apply {name}")

    def running(self, name: str) -> bool:
        return self.group.daemon(name).poll() is None

    def process(self, name: str) -> psutil.Process:
        """A daemon that runs, to be measured and limited."""
        return psutil.Process(self.group.daemon(name).pid)

    def all_run(self) -> bool:
        """Whether no daemon that was started has ended."""
        return all(map(self.running, self._started))

    def log_of(self, name: str) -> str:
        return self.group.log_of(name).read_text()

    def ends(self, name: str, seconds: float = 30.0) -> int:
        """The exit code of a daemon that ends by itself."""
        process = self.group.daemon(name)
        ended = wait_for(lambda: process.poll() is not None, seconds=seconds)
        assert ended, f"{name} still runs after {seconds:g} s\n{self.group.tail_of_logs()}"
        assert process.returncode is not None
        return process.returncode

    # progress and contents

    def position(self, follower: str = FOLLOWER) -> int:
        """Commit LSN of the newest transaction in the follower."""
        with psycopg.connect(self.followers[follower], autocommit=True, connect_timeout=5) as connection:
            row = connection.execute("SELECT commit_lsn - '0/0'::pg_lsn FROM cdc.position").fetchone()
        assert row is not None, f"{follower} has no position"
        return int(row[0])

    def wait_applied(self, lsn: int, *followers: str, seconds: float = 40.0, all_running: bool = True) -> None:
        """Until the followers hold every transaction that was committed before `lsn`."""
        deadline = time.monotonic() + seconds
        for name in followers or self.followers:
            while self._reached(name) < lsn:
                if all_running:
                    self.check_running("capture", f"apply {name}")
                if time.monotonic() > deadline:
                    pytest.fail(f"{name} does not reach {lsn} within {seconds:g} s\n{self.group.tail_of_logs()}")
                time.sleep(0.02)

    def wait_published(self) -> None:
        """Until the log holds everything that is committed now."""
        beyond = f"SELECT confirmed_flush_lsn > '0/0'::pg_lsn + {self.mark()} FROM pg_replication_slots"
        query = f"{beyond} WHERE slot_name = '{self.group.slot}'"
        assert wait_for(lambda: rows_of(self.leader, query) == [(True,)], seconds=20), self.group.tail_of_logs()

    def catch_up(self, *followers: str, seconds: float = 40.0) -> None:
        """Until the followers hold everything that is committed on the leader now."""
        self.wait_applied(self.mark(), *followers, seconds=seconds)

    def check_running(self, *names: str) -> None:
        for name in names:
            process = self.group.daemon(name)
            if process.poll() is not None:
                log = tail_of(self.group.log_of(name), 30)
                pytest.fail(f"{name} ended with code {process.returncode}:\n{log}")

    def assert_equal(self, prefix: str | tuple[str, ...] = "", *followers: str) -> None:
        """Every row of every table (schema.table begins with `prefix`) has the same text here and there."""
        expected = digests(self.leader, prefix)
        assert expected, "nothing to compare"
        for name in followers or self.followers:
            dsn = self.followers[name]
            found = digests(dsn, prefix)
            for table, digest in expected.items():
                if found.get(table) != digest:
                    assert contents(dsn, table) == contents(self.leader, table), f"{table} differs on {name}"
                    pytest.fail(f"{table} differs on {name} in digest only")

    def assert_all_equal(self, leader: str, prefix: str = "public.") -> None:
        """Like `assert_equal`, with whichever node leads."""
        expected = digests(self.nodes[leader], prefix)
        assert expected, "nothing to compare"
        for name, dsn in self.nodes.items():
            found = digests(dsn, prefix)
            for table, digest in expected.items():
                if found.get(table) != digest:
                    assert contents(dsn, table) == contents(self.nodes[leader], table), f"{table} differs on {name}"

    def _reached(self, follower: str) -> int:
        try:
            return self.position(follower)
        except psycopg.OperationalError:
            return 0

    # end

    def on_close(self, call: Callable[..., Any], *arguments: Any) -> None:
        """To be called after the daemons are stopped, the newest first."""
        self._closing.callback(call, *arguments)

    def close(self) -> None:
        with self._closing:
            self.group.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def run_sql(dsn: str, *statements: str) -> None:
    """Each statement a transaction of its own, on any database."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def sqlstate(error: psycopg.Error | None) -> str | None:
    return error.sqlstate if error else None


def rows_of(dsn: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        return connection.execute(query).fetchall()


def set_for_database(dsn: str, **settings: str) -> None:
    """What every later session of the database begins with."""
    with psycopg.connect(dsn, autocommit=True, options="-c default_transaction_read_only=off") as connection:
        for setting, value in settings.items():
            statement = sql.SQL("ALTER DATABASE {} SET {} = {}").format(
                sql.Identifier(connection.info.dbname), sql.Identifier(setting), sql.Literal(value)
            )
            connection.execute(statement)
