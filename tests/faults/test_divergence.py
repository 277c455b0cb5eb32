"""A transaction that a follower cannot apply: named, kept out of the logs, and left out only by an operator's word."""

from __future__ import annotations

import getpass
import re
import shlex
import signal
import subprocess
from pathlib import Path

import orjson
import pytest

from cdc import failpoints
from cdc.local.processes import wait_for
from tests.fixtures.pipeline import Pipelines
from tests.support.pipeline import FOLLOWER, QUICK_HEARTBEAT, Pipeline, rows_of, run_sql
from tests.support.topic import fatal
from tests.support.watched import APPLY

pytestmark = [pytest.mark.faults, pytest.mark.newest_first]

TABLES = (
    "CREATE TABLE t (id int PRIMARY KEY, x text)",
    "CREATE TABLE other (id int PRIMARY KEY, x text, n int DEFAULT 0)",
)
BEHIND_OUR_BACK = ("SET default_transaction_read_only = off", "SET session_replication_role = replica")
RUNBOOK = Path(__file__).parents[2] / "ops/runbooks/divergence.md"
POSITION = re.compile(r"position (\d+/[0-9A-F]+/[0-9A-F]+)[:,]")


def on_follower(pipeline: Pipeline, *statements: str) -> None:
    run_sql(pipeline.followers[FOLLOWER], *BEHIND_OUR_BACK, *statements)


def stopped_at(pipeline: Pipeline, *words: str) -> str:
    """The position that the applier names when it ends."""
    found = POSITION.search(fatal(pipeline, APPLY, *words))
    assert found is not None, pipeline.log_of(APPLY)
    return found[1]


def status(pipeline: Pipeline, code: int = 0) -> dict[str, dict[str, object]]:
    """What `cdc status` says of each node."""
    done = pipeline.group.run("status", "--json")
    assert done.returncode == code, done.stderr
    return {node["name"]: node for node in orjson.loads(done.stdout)["nodes"]}


def run_line(pipeline: Pipeline, line: str, position: str) -> subprocess.CompletedProcess[str]:
    return pipeline.group.run(*shlex.split(line.replace("POSITION", position))[1:])


class TestStop:
    """Everything that only the follower refuses: table, names of the key, position, SQLSTATE and remedy in one line."""

    @pytest.fixture
    def pipeline(self, module_pipelines: Pipelines, postgres_version: int) -> Pipeline:
        def build() -> Pipeline:
            return module_pipelines.new(*TABLES, version=postgres_version).init().bootstrap().start()

        return module_pipelines.kept(postgres_version, build)

    @pytest.mark.parametrize(
        ("harm", "change", "words", "repair"),
        [
            ("ALTER TABLE other ADD CONSTRAINT small CHECK (n < 5)", "INSERT INTO other VALUES (1, 'secret', 7)",
             ("check violation (23514, constraint small, key columns: id)",),
             "ALTER TABLE other DROP CONSTRAINT small"),
            ("CREATE UNIQUE INDEX one_x ON other (x)", "INSERT INTO other VALUES (2, 'secret', 7), (3, 'secret', 7)",
             ("unique value is there already (23505, constraint one_x, key columns: id)",), "DROP INDEX one_x"),
            ("ALTER TABLE other ALTER n SET NOT NULL", "INSERT INTO other VALUES (4, 'secret', NULL)",
             ("not null violation (23502",), "ALTER TABLE other ALTER n DROP NOT NULL"),
            ("CREATE INDEX narrow ON other ((n::smallint))", "INSERT INTO other VALUES (5, 'secret', 70000)",
             ("numeric value out of range (22003",), "DROP INDEX narrow"),
            ("CREATE TABLE child (id int PRIMARY KEY REFERENCES other)", "TRUNCATE other",
             ("(0A000)",), "DROP TABLE child"),
        ],
        ids=["check", "unique", "not null", "range", "truncate"],
    )  # fmt: skip
    def test_what_came_before_is_applied_and_nothing_else(
        self, pipeline: Pipeline, harm: str, change: str, words: tuple[str, ...], repair: str
    ):
        pipeline.execute("DELETE FROM other", "DELETE FROM t")
        pipeline.catch_up()
        assert pipeline.group.stop(APPLY) == 0
        on_follower(pipeline, harm)
        pipeline.execute("INSERT INTO t VALUES (1, 'before')", change, "INSERT INTO t VALUES (2, 'after')")
        pipeline.start_apply()
        position = stopped_at(pipeline, FOLLOWER, "cdc skip --follower eu-west --position", *words)
        assert "secret" not in pipeline.log_of(APPLY)
        assert rows_of(pipeline.followers[FOLLOWER], "SELECT id FROM t") == [(1,)]
        told = status(pipeline)[FOLLOWER]
        assert told["state"] == "blocked"
        assert position in str(told["follower"])

        on_follower(pipeline, repair)
        pipeline.start_apply()
        pipeline.catch_up()
        pipeline.assert_equal()
        assert status(pipeline)[FOLLOWER]["state"] == "applying"

    def test_the_key_is_shown_only_where_it_is_asked_for(self, pipeline: Pipeline):
        pipeline.catch_up()
        assert pipeline.group.stop(APPLY) == 0
        on_follower(pipeline, "INSERT INTO t VALUES (4711, 'mine')")
        pipeline.execute("INSERT INTO t VALUES (4711, 'secret')")
        hidden = pipeline.group.run("apply", "--follower", FOLLOWER)
        shown = pipeline.group.run("apply", "--follower", FOLLOWER, "--show-keys")
        assert (hidden.returncode, shown.returncode) == (4, 4)
        assert "4711" not in hidden.stderr
        assert [line for line in shown.stderr.splitlines() if "4711" in line] == shown.stderr.splitlines()[-1:]
        assert 'key {"id":"4711"}' in shown.stderr
        assert "4711" not in str(status(pipeline))
        on_follower(pipeline, "DELETE FROM t WHERE id = 4711")
        pipeline.start_apply()
        pipeline.catch_up()
        pipeline.assert_equal()


class TestSkip:
    """The operator's last way out."""

    def test_exactly_the_transaction_that_stops_it_is_left_out_and_kept_in_a_file(
        self, pipelines: Pipelines, tmp_path: Path
    ):
        pipeline = pipelines.new(*TABLES, kafka={"max_record_bytes": 2000}).init().bootstrap().start()
        big = "x" * 5000
        on_follower(pipeline, "INSERT INTO t VALUES (2, 'mine')")
        pipeline.execute("INSERT INTO t VALUES (1, 'row')")
        pipeline.transact(f"INSERT INTO t VALUES (2, '{big}')", "INSERT INTO other SELECT generate_series(1, 3000)")
        pipeline.execute("INSERT INTO t VALUES (3, 'row')")
        position = stopped_at(pipeline, "public.t")

        file = tmp_path / "left-out.jsonl"

        def skip(name: str, target: Path = file, *, failpoint: str | None = None) -> subprocess.CompletedProcess[str]:
            return pipeline.group.run(
                "skip", "--follower", FOLLOWER, "--position", name, "--reason", "row 2 is mine", "--file", str(target),
                failpoint=failpoint,
            )  # fmt: skip

        # Refused: another transaction, a file that holds something else, no position at all.
        other = skip("1/0/1")
        assert other.returncode == 3, other.stderr
        epoch, high, low = position.split("/")
        later = skip(f"{epoch}/{high}/{int(low, 16) + 8:X}")
        assert later.returncode == 3
        assert f"the follower's next transaction is {position}" in later.stderr
        assert not file.exists()
        taken = tmp_path / "taken"
        taken.write_text("mine")
        assert skip(position, taken).returncode == 3
        assert taken.read_text() == "mine"
        assert skip("soon").returncode == 2

        # Killed before the commit, nothing is decided; killed after it, all is.
        assert skip(position, failpoint=failpoints.SKIP_BEFORE_COMMIT).returncode == -signal.SIGKILL
        assert status(pipeline)[FOLLOWER]["state"] == "blocked"
        assert skip(position, failpoint=failpoints.SKIP_AFTER_COMMIT).returncode == -signal.SIGKILL
        again = skip(position)
        assert (again.returncode, "left out before" in again.stdout) == (0, True)
        assert again.stdout.count(str(file)) == 1

        events = [orjson.loads(line) for line in file.read_text().splitlines()]
        assert [event["cdc"]["seq"] for event in events] == list(range(1, 3002))
        assert events[0]["after"] == {"id": "2", "x": big}
        assert file.stat().st_mode & 0o777 == 0o600
        assert not list(tmp_path.glob("*.partial"))

        # Once it goes on, the follower says that it has diverged.
        pipeline.start_apply()
        pipeline.catch_up()
        follower = pipeline.followers[FOLLOWER]
        assert rows_of(follower, "SELECT id, x FROM t ORDER BY id") == [(1, "row"), (2, "mine"), (3, "row")]
        assert rows_of(follower, "SELECT count(*) FROM other") == [(0,)]
        told = status(pipeline)[FOLLOWER]
        assert told["state"] == "applying, diverged"
        [decision] = told["follower"]["decisions"]  # type: ignore[index]
        assert (decision["action"], decision["events"], decision["reason"]) == ("skip", 3001, "row 2 is mine")
        assert decision["by"].startswith(f"{getpass.getuser()}@")
        assert decision["tables"] == ["public.other", "public.t"]
        assert "has diverged" in pipeline.run("lag")
        assert "diverged" in pipeline.log_of(APPLY)
        promotion = pipeline.group.run("promote", "--follower", FOLLOWER, "--dry-run")
        assert promotion.returncode == 3
        assert "is diverged since" in promotion.stderr

        # And while an applier runs, nobody else decides anything.
        refused = skip(position)
        assert refused.returncode == 4
        assert "another applier works on this follower" in refused.stderr

    def test_the_runbook_leads_to_a_follower_that_goes_on(self, pipelines: Pipelines, monkeypatch: pytest.MonkeyPatch):
        pipeline = pipelines.new(*TABLES).init().bootstrap().start()
        monkeypatch.chdir(pipeline.group.config.parent)
        on_follower(pipeline, "INSERT INTO t VALUES (1, 'mine')")
        pipeline.execute("INSERT INTO t VALUES (1, 'row')")
        position = stopped_at(pipeline, "public.t")
        blocks = re.findall(r"```sh\n(cdc .*)\n```", RUNBOOK.read_text())
        ended = {line: run_line(pipeline, line, position).returncode for line in blocks[:-1]}
        assert list(ended.values()) == [0, 4, 0], ended
        assert blocks[-1] == f"cdc apply --follower {FOLLOWER}"
        pipeline.start_apply()
        pipeline.catch_up()

    @pytest.mark.long
    def test_a_follower_of_an_older_version_gets_the_tables_that_it_lacks(self, pipelines: Pipelines):
        pipeline = pipelines.new(*TABLES).init().bootstrap()
        on_follower(pipeline, "DROP TABLE cdc.decision", "DROP TABLE cdc.blocked")
        pipeline.start()
        pipeline.catch_up()
        assert status(pipeline)[FOLLOWER]["state"] == "applying"
        assert rows_of(pipeline.followers[FOLLOWER], "SELECT count(*) FROM cdc.decision") == [(0,)]


class TestOverwrite:
    """Where the configuration says so, rows come to what the leader's are; each is counted."""

    def test_rows_of_named_tables_are_overwritten_counted_and_recorded(self, pipelines: Pipelines):
        extra = f'{QUICK_HEARTBEAT}\n[apply]\noverwrite = ["public.t"]'
        pipeline = pipelines.new(*TABLES, "INSERT INTO t SELECT i, 'old' FROM generate_series(1, 500) i", extra=extra)
        pipeline.init().bootstrap().start()
        pipeline.catch_up()
        on_follower(pipeline, "DELETE FROM t WHERE id <= 3", "INSERT INTO t VALUES (501, 'mine'), (502, 'secret')")
        pipeline.transact(
            "UPDATE t SET x = 'new' WHERE id IN (1, 400)",
            "DELETE FROM t WHERE id IN (2, 401)",
            "UPDATE t SET id = 1003 WHERE id = 3",
            "INSERT INTO t VALUES (501, 'new'), (502, 'new'), (503, 'new')",
        )
        pipeline.execute("UPDATE t SET x = 'newer' WHERE id > 100", "INSERT INTO other VALUES (1, 'x')")
        pipeline.catch_up()
        pipeline.assert_equal()
        assert "secret" not in pipeline.log_of(APPLY)
        assert "rows were overwritten" in pipeline.log_of(APPLY)
        told = status(pipeline)[FOLLOWER]
        assert told["state"] == "applying"
        [decision] = told["follower"]["decisions"]  # type: ignore[index]
        assert (decision["action"], decision["events"], decision["tables"]) == ("overwrite", 5, ["public.t"])

        # Other tables still stop, and a row that is not known whole does, too.
        on_follower(pipeline, "DELETE FROM other")
        pipeline.execute("UPDATE other SET x = 'y'")
        stopped_at(pipeline, "public.other", "the row is not there (02000")


class TestStatus:
    """Whoever cannot be reached is named, and the rest is told."""

    def test_what_cannot_be_reached_is_said_within_ten_seconds(self, pipelines: Pipelines):
        pipeline = pipelines.new(*TABLES).init().bootstrap().start()
        pipeline.catch_up()
        text = pipeline.run("status")
        assert "us-east leads; epoch 1" in text
        assert "eu-west (follower): applying" in text
        config = pipeline.group.config
        config.write_text(config.read_text().replace(pipeline.leader, "postgresql://postgres@127.0.0.1:1/gone"))
        done = pipeline.group.run("status", seconds=20)
        assert done.returncode == 3
        assert "us-east (leader): unknown" in done.stdout
        assert "eu-west (follower): applying" in done.stdout
        assert wait_for(lambda: pipeline.running(APPLY), seconds=1)
