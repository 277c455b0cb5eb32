"""Bootstrap of tables in many parts: goes on after what can be survived, and ends with one line after what cannot."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import psycopg
import pytest

from cdc.local.processes import wait_for
from tests.fixtures.pipeline import Pipelines
from tests.fixtures.servers import OwnPostgres
from tests.support.bank import BANK, Bank
from tests.support.pipeline import FOLLOWER, LEADER, Pipeline, rows_of
from tests.support.proxy import HALF_OPEN, PASS, Link, Proxy

pytestmark = pytest.mark.faults

WIDE = (
    # Few rows on many pages, so that there are parts without there being much.
    "CREATE TABLE wide (id int PRIMARY KEY, kind text NOT NULL, note text) WITH (fillfactor = 10)",
    "INSERT INTO wide SELECT i, 'kind ' || i % 7, repeat(md5(i::text), 20) FROM generate_series(1, 12000) i",
    "CREATE INDEX ON wide (kind)",
    "CREATE TABLE child (id int PRIMARY KEY, wide int REFERENCES wide, alias oid, name regclass)",
    "INSERT INTO child SELECT i, i, i, 'wide'::regclass FROM generate_series(1, 500) i",
)
PARTS = 6
"""12000 pages are 94 MB."""


@dataclass
class Copy:
    """A `cdc bootstrap` that runs, over a slow link to the leader, so that there is time to act between its parts.

    `parts` are the notes of parts that were ever seen on the follower, with the time; `doubled` those done twice."""

    pipeline: Pipeline
    parts: dict[str, str] = field(default_factory=dict)
    doubled: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._done = threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)
        place = psycopg.conninfo.conninfo_to_dict(self.pipeline.leader)
        self.link = Proxy(f"{place['host']}:{place['port']}")
        self.pipeline.on_close(self.link.__exit__, None, None, None)
        self.link.__enter__()

    def start(self, link: Link = Link(bytes_per_second=600_000)) -> None:  # noqa: B008 - it is frozen
        self.command("bootstrap", "--follower", FOLLOWER, "--jobs", "2", link=link)
        self._watch.start()

    def command(self, *words: str, link: Link = PASS) -> None:
        pipeline = self.pipeline
        host, _, port = self.link.address.rpartition(":")
        nodes = {name: {"dsn": dsn} for name, dsn in pipeline.nodes.items()}
        nodes[LEADER] = {"dsn": psycopg.conninfo.make_conninfo(pipeline.leader, host=host, port=port)}
        pipeline.group.environment["copy"] = {"CDC_NODES": json.dumps(nodes)}
        self.link.set(link)
        pipeline.group.start_command("copy", *words)

    def _look(self) -> None:
        while not self._done.wait(0.02):
            with suppress(psycopg.Error):
                for part, at in rows_of(
                    self.pipeline.followers[FOLLOWER], "SELECT part, done_at::text FROM cdc.bootstrap_part"
                ):
                    if self.parts.setdefault(part, at) != at:
                        self.doubled.append(part)

    def has_parts(self, count: int) -> None:
        def there() -> bool:
            return sum(part.endswith("public.wide") for part in self.parts) >= count or not self.runs()

        assert wait_for(there, seconds=60)
        assert self.runs(), self.pipeline.log_of("copy")

    def runs(self) -> bool:
        return self.pipeline.running("copy")

    def ends(self) -> int:
        self.link.set(PASS)
        code = self.pipeline.ends("copy", 90)
        self._done.set()
        self._watch.join(10)
        return code


@contextmanager
def under_load(pipeline: Pipeline) -> Iterator[Bank]:
    with Bank(pipeline.leader) as bank:
        bank.transacts(10)
        yield bank
        bank.transacts(20)
        bank.stop()


def ends_equal(pipeline: Pipeline) -> None:
    pipeline.start_apply()
    pipeline.catch_up()
    pipeline.assert_equal()


def ended(which: str) -> str:
    """SQL that ends sessions of the copy on this server."""
    return (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
        f"AND application_name = 'cdc bootstrap {FOLLOWER}{which}'"
    )


@pytest.fixture
def pipeline(pipelines: Pipelines) -> Pipeline:
    return captured(pipelines.new(*BANK, *WIDE))


def captured(pipeline: Pipeline) -> Pipeline:
    pipeline.init().start_capture()
    return pipeline


@pytest.mark.parametrize(
    ("after", "crash"),
    [
        (PARTS // 2, False),
        pytest.param(1, False, marks=pytest.mark.long),
        pytest.param(PARTS // 2, True, marks=pytest.mark.long),
        pytest.param(PARTS - 1, False, marks=pytest.mark.long),
    ],
)
def test_a_copy_whose_connections_are_lost_goes_on_where_it_was(
    pipelines: Pipelines, own_postgres: OwnPostgres, after: int, crash: bool
):
    """At about 10, 50 and 90 %. What was done is there, and is not done again, also after a crash of the follower."""
    server = own_postgres()
    pipeline = captured(pipelines.new(*BANK, *WIDE, follower=server))
    with under_load(pipeline):
        copy = Copy(pipeline)
        copy.start()
        copy.has_parts(after)
        rows_of(pipeline.leader, ended(" copies"))
        server.kill() if crash else server.stop()
        server.start()
        assert copy.ends() == 0, pipeline.log_of("copy")
    assert not copy.doubled
    assert "interrupted, trying again" in pipeline.log_of("copy")
    ends_equal(pipeline)


@pytest.mark.long  # test_bootstrap_kills.py does it once
@pytest.mark.parametrize("after", [1, PARTS // 2, PARTS - 1])
def test_a_copy_that_was_killed_starts_anew_with_a_snapshot_of_its_own(pipeline: Pipeline, after: int):
    with under_load(pipeline):
        copy = Copy(pipeline)
        copy.start()
        copy.has_parts(after)
        pipeline.group.kill("copy")
        copy.ends()
        pipeline.execute("UPDATE wide SET note = 'newer' WHERE id % 5 = 0")
        pipeline.bootstrap()
    follower = pipeline.followers[FOLLOWER]
    assert rows_of(follower, "SELECT FROM cdc.bootstrap_part") == []
    ends_equal(pipeline)


def test_a_copy_that_lost_its_snapshot_says_so_and_ends(pipeline: Pipeline):
    with under_load(pipeline):
        copy = Copy(pipeline)
        copy.start()
        copy.has_parts(1)
        rows_of(pipeline.leader, ended(""))
        rows_of(pipeline.leader, ended(" copies"))
        assert copy.ends() == 3
        last = pipeline.log_of("copy").splitlines()[-1]
        assert "the connection that held the snapshot is lost" in last
        assert "run the same command again" in last
        pipeline.bootstrap()
    ends_equal(pipeline)


@pytest.mark.long
@pytest.mark.parametrize("after", [0, 2])
def test_a_leader_that_hangs_ends_it_with_one_line(pipeline: Pipeline, after: int):
    """Between the first rows and the last, or at the very beginning; nothing is left hanging on the follower."""
    copy = Copy(pipeline)
    if after == 0:
        copy.start(link=HALF_OPEN)
    else:
        copy.start()
        copy.has_parts(after)
        copy.link.set(HALF_OPEN)
    assert pipeline.ends("copy", 100) == 3
    last = pipeline.log_of("copy").splitlines()[-1]
    assert last.startswith(f"cdc: {LEADER}: ")
    assert "Traceback" not in pipeline.log_of("copy")
    copy.link.set(PASS)
    pipeline.bootstrap()
    ends_equal(pipeline)


@pytest.mark.long
def test_an_init_whose_leader_hangs_ends_with_one_line(pipelines: Pipelines):
    """It waits for a transaction that is open, rightly, when the link stops to move."""
    pipeline = pipelines.new("CREATE TABLE t (id int PRIMARY KEY)")
    copy = Copy(pipeline)
    with psycopg.connect(pipeline.leader) as connection:
        connection.execute("SELECT pg_current_xact_id()")
        copy.command("init")
        waits = "SELECT FROM pg_stat_activity WHERE application_name = 'cdc init' AND wait_event_type = 'Lock'"
        assert wait_for(lambda: bool(rows_of(pipeline.leader, waits)), seconds=30)
        copy.link.set(HALF_OPEN)
        assert pipeline.ends("copy", 60) == 3
    assert pipeline.log_of("copy").splitlines()[-1].startswith(f"cdc: {LEADER}: ")
