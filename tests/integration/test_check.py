"""cdc check: each thing that is broken is one line, and no other; what is not made yet is no failure."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, NewPartitions

from cdc.local import KafkaServer, PostgresServer
from cdc.local.processes import wait_for
from cdc.ports import FOLLOWER_SESSION
from cdc.services.checks.check import Status
from tests.fixtures.pipeline import Pipelines
from tests.fixtures.servers import SharedServers
from tests.support.checking import Breaking, check, problems
from tests.support.pipeline import FOLLOWER, LEADER, Pipeline, rows_of, run_sql
from tests.support.promotion import promote
from tests.support.topic import Topic

USUAL = "ENCODING 'UTF8' LOCALE 'C'"
TABLE = "CREATE TABLE t (id int PRIMARY KEY, x text)"
DDL = (
    "CREATE TYPE mood AS ENUM ('sad', 'glad')",
    "CREATE TABLE t (id int PRIMARY KEY, x text, m mood, n int)",
    "CREATE TABLE child (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, t int REFERENCES t, "
    "twice int GENERATED ALWAYS AS (t * 2) STORED)",
    "CREATE TABLE plain (id int PRIMARY KEY, g int GENERATED ALWAYS AS (id) STORED NOT NULL UNIQUE)",
    "CREATE SEQUENCE counter",
    "CREATE TYPE unused AS ENUM ('a')",
    "CREATE SCHEMA side",
    "CREATE TABLE side.place (id int PRIMARY KEY)",
)


@pytest.fixture(scope="module")
def group(module_pipelines: Pipelines) -> Pipeline:
    """Bootstrapped; its daemons need not run."""
    return module_pipelines.kept("group", lambda: module_pipelines.new(*DDL).init().bootstrap())


@pytest.fixture(scope="module")
def broken(group: Pipeline) -> Breaking:
    return Breaking(group)


@dataclass(frozen=True)
class Case:
    """`breaks` and `repairs` are SQL on the node `on`; `repairs` is empty where the line's own remedy does it. `also`
    and `also_repairs` are SQL on the other node."""

    id: str
    status: str
    breaks: tuple[str, ...]
    repairs: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    on: str = LEADER
    also: str = ""
    also_repairs: str = ""


def on_leader(id: str, status: str, breaks: str, repairs: str, *words: str) -> Case:
    return Case(id, status, (breaks,), (repairs,), words)


def on_follower(id: str, status: str, breaks: str, repairs: str, *words: str) -> Case:
    """Without `repairs` the remedy is run, as it is written."""
    return Case(id, status, (breaks,), (repairs,) if repairs else (), words, FOLLOWER)


LEADER_CASES = [
    on_leader(
        "leader.replica_identity",
        "failed",
        "ALTER TABLE plain REPLICA IDENTITY NOTHING",
        "ALTER TABLE plain REPLICA IDENTITY DEFAULT",
        "public.plain",
        "REPLICA IDENTITY FULL",
    ),
    Case(
        "leader.keys",
        "warning",
        (
            "ALTER TABLE plain DROP CONSTRAINT plain_pkey, DROP CONSTRAINT plain_g_key",
            "ALTER TABLE plain REPLICA IDENTITY FULL",
        ),
        ("ALTER TABLE plain ADD PRIMARY KEY (id), ADD UNIQUE (g)", "ALTER TABLE plain REPLICA IDENTITY DEFAULT"),
        ("public.plain", "ADD PRIMARY KEY"),
    ),
    on_leader(
        "leader.unlogged",
        "warning",
        "CREATE UNLOGGED TABLE scratch (id int)",
        "DROP TABLE scratch",
        "public.scratch",
        "SET LOGGED",
    ),
    on_leader(
        "leader.generated",
        "failed",
        "ALTER TABLE plain REPLICA IDENTITY USING INDEX plain_g_key",
        "ALTER TABLE plain REPLICA IDENTITY DEFAULT",
        "public.plain: g",
    ),
    on_leader("leader.large_objects", "warning", "SELECT lo_create(4711)", "SELECT lo_unlink(4711)", "1 large objects"),
    Case(
        "leader.foreign_keys",
        "warning",
        ("ALTER TABLE plain ADD CONSTRAINT far FOREIGN KEY (id) REFERENCES side.place",),
        ("ALTER TABLE plain DROP CONSTRAINT far",),
        ("public.plain to side.place", "DROP CONSTRAINT"),
        also="ALTER TABLE plain ADD CONSTRAINT far FOREIGN KEY (id) REFERENCES side.place",
        also_repairs="ALTER TABLE plain DROP CONSTRAINT far",
    ),
    on_leader(
        "leader.collation",
        "warning",
        "UPDATE pg_database SET datcollversion = '1.0' WHERE datname = current_database()",
        "UPDATE pg_database SET datcollversion = NULL WHERE datname = current_database()",
        "REFRESH COLLATION VERSION",
    ),
    on_leader(
        "leader.identity",
        "failed",
        "UPDATE cdc.identity SET timeline = 99",
        "UPDATE cdc.identity SET timeline = 1",
        "timeline",
    ),
    on_leader(
        "leader.slot",
        "failed",
        "UPDATE cdc.identity SET slot_made_lsn = 'FFFF/0'",
        "UPDATE cdc.identity SET slot_made_lsn = '0/1'",
        "made anew",
    ),
    on_leader(
        "leader.log", "failed", "UPDATE cdc.identity SET epoch = 2", "UPDATE cdc.identity SET epoch = 1", "epoch"
    ),
    on_leader(
        "leader.promotion",
        "warning",
        "CREATE TABLE cdc.fence AS SELECT topic AS log, now() AS fenced_at FROM cdc.identity",
        "DROP TABLE cdc.fence",
        "closed",
        "--abort",
    ),
    on_leader(
        "leader.publication",
        "warning",
        "CREATE TABLE late (id int PRIMARY KEY)",
        "DROP TABLE late",
        "public.late",
        "cdc init",
    ),
    on_leader(
        "between.extensions",
        "warning",
        "CREATE EXTENSION citext",
        "DROP EXTENSION citext",
        "citext",
        "CREATE EXTENSION",
    ),
]
FOLLOWER_CASES = [
    on_follower(
        "follower.state",
        "failed",
        "INSERT INTO cdc.blocked (log, problem) SELECT log, 'a table is missing' FROM cdc.position",
        "DELETE FROM cdc.blocked",
        "a table is missing",
    ),
    on_follower("follower.read_only", "warning", "DROP TRIGGER cdc_read_only ON t", "", "public.t"),
    Case(
        "follower.triggers",
        "warning",
        (
            "CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
            "CREATE TRIGGER again BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION again()",
            "ALTER TABLE t ENABLE ALWAYS TRIGGER again",
        ),
        ("DROP FUNCTION again CASCADE",),
        ("again on public.t",),
        FOLLOWER,
    ),
    on_follower(
        "follower.triggers",
        "warning",
        "CREATE RULE twice AS ON INSERT TO t DO ALSO NOTHING; ALTER TABLE t ENABLE ALWAYS RULE twice",
        "DROP RULE twice ON t",
        "twice on public.t",
    ),
    on_follower("follower.unlogged", "failed", "ALTER TABLE plain SET UNLOGGED", "", "public.plain"),
    on_follower(
        "follower.collation",
        "warning",
        "UPDATE pg_database SET datcollversion = '1.0' WHERE datname = current_database()",
        "UPDATE pg_database SET datcollversion = NULL WHERE datname = current_database()",
        "REFRESH COLLATION VERSION",
    ),
    on_follower("between.types", "warning", "DROP TYPE unused", "CREATE TYPE unused AS ENUM ('a')", "public.unused"),
    on_follower(
        "between.columns",
        "failed",
        "ALTER TABLE t DROP COLUMN x",
        "ALTER TABLE t ADD COLUMN x text",
        "no column x",
        "ADD COLUMN",
    ),
    on_follower(
        "between.columns",
        "failed",
        "ALTER TABLE plain RENAME TO s",
        "ALTER TABLE s RENAME TO plain",
        "public.plain does not exist",
    ),
    on_follower(
        "between.columns",
        "failed",
        "ALTER TABLE t ALTER n TYPE smallint",
        "ALTER TABLE t ALTER n TYPE int",
        "n is smallint here",
    ),
    on_follower(
        "between.columns",
        "warning",
        "ALTER TABLE t ADD COLUMN more int",
        "ALTER TABLE t DROP COLUMN more",
        "public.t.more (none there, integer here)",
    ),
    on_follower("between.not_null", "failed", "ALTER TABLE t ALTER x SET NOT NULL", "", "public.t.x"),
    on_follower(
        "between.keys",
        "warning",
        "ALTER TABLE plain DROP CONSTRAINT plain_pkey, DROP CONSTRAINT plain_g_key",
        "ALTER TABLE plain ADD PRIMARY KEY (id), ADD UNIQUE (g)",
        "public.plain",
    ),
    on_follower(
        "between.generated",
        "failed",
        "ALTER TABLE child ALTER twice SET EXPRESSION AS (t * 3)",
        "ALTER TABLE child ALTER twice SET EXPRESSION AS (t * 2)",
        "public.child.twice",
        "(t * 2)",
    ),
    on_follower(
        "between.foreign_keys",
        "warning",
        "ALTER TABLE child DROP CONSTRAINT child_t_fkey",
        "ALTER TABLE child ADD CONSTRAINT child_t_fkey FOREIGN KEY (t) REFERENCES t NOT VALID",
        "child_t_fkey",
        "ADD CONSTRAINT",
    ),
    on_follower("between.sequences", "warning", "DROP SEQUENCE counter", "CREATE SEQUENCE counter", "public.counter"),
    on_follower(
        "between.position",
        "failed",
        "UPDATE cdc.position SET next_offset = next_offset - 1000",
        "UPDATE cdc.position SET next_offset = next_offset + 1000",
        "retention",
    ),
]


def change(pipeline: Pipeline, node: str, *statements: str) -> None:
    prefix = FOLLOWER_SESSION.split("; ") if node != LEADER else []
    run_sql(pipeline.nodes[node], *prefix, *statements)


QUICK = {
    "leader.replica_identity", "leader.unlogged", "leader.foreign_keys", "leader.slot", "leader.log",
    "leader.publication", "follower.state", "follower.read_only", "between.types", "between.columns",
    "between.not_null", "between.generated", "between.position", "kafka.cleanup_policy", "kafka.retention",
    "kafka.min_insync_replicas",
}  # fmt: skip
"""The others run with --all; all go the same way."""


def marks(id: str) -> list[pytest.MarkDecorator]:
    return [] if id in QUICK else [pytest.mark.long]


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=marks(case.id), id=case.id) for case in (*LEADER_CASES, *FOLLOWER_CASES)]
)
def test_what_is_broken_is_one_line(group: Pipeline, broken: Breaking, case: Case):
    other = FOLLOWER if case.on == LEADER else LEADER
    change(group, case.on, *case.breaks)
    if case.also:
        change(group, other, case.also)
    try:
        line = broken.sees(case.id, case.status, *case.words)
    finally:
        change(group, case.on, *case.repairs)
        if case.also:
            change(group, other, case.also_repairs)
    if not case.repairs:
        run_sql(group.nodes[case.on], *line.remedy.split("; "))


TOPIC_CASES = [
    ("kafka.cleanup_policy", "failed", {"cleanup_policy": "compact"}, {"cleanup_policy": "delete"}),
    ("kafka.retention", "warning", {"retention_ms": "3600000"}, {"retention_ms": "604800000"}),
    ("kafka.retention_bytes", "warning", {"retention_bytes": "1000000"}, {"retention_bytes": "-1"}),
    ("kafka.min_insync_replicas", "failed", {"min_insync_replicas": "2"}, {"min_insync_replicas": "1"}),
    ("kafka.max_message_bytes", "warning", {"max_message_bytes": "50000"}, {"max_message_bytes": "1000000"}),
    (
        "kafka.unclean_election",
        "warning",
        {"unclean_leader_election_enable": "true"},
        {"unclean_leader_election_enable": "false"},
    ),
    (
        "kafka.timestamps",
        "warning",
        {"message_timestamp_type": "CreateTime"},
        {"message_timestamp_type": "LogAppendTime"},
    ),
]


@pytest.mark.parametrize(
    ("id", "status", "breaks", "repairs"),
    [pytest.param(*case, marks=marks(case[0]), id=case[0]) for case in TOPIC_CASES],
)
def test_a_setting_of_the_topic(
    group: Pipeline,
    broken: Breaking,
    kafka: KafkaServer,
    id: str,
    status: str,
    breaks: dict[str, str],
    repairs: dict[str, str],
):
    topic = Topic(kafka, group.group.topic)
    topic.set(**breaks)
    try:
        line = broken.sees(id, status, group.group.topic)
        if id != "kafka.min_insync_replicas":
            (setting, value) = next(iter(repairs.items()))
            assert f"--add-config {setting.replace('_', '.')}={value}" in line.remedy
    finally:
        topic.set(**repairs)


@contextmanager
def server_settings(server: PostgresServer, **settings: str) -> Iterator[None]:
    """In force once the server was told; it takes them at its own time."""
    names = list(settings)

    def in_force(value_of: Callable[[str], str]) -> bool:
        return all(rows_of(server.dsn(), f"SHOW {name}") == [(value_of(name),)] for name in names)

    before = {name: rows_of(server.dsn(), f"SHOW {name}")[0][0] for name in names}
    run_sql(
        server.dsn(),
        *(f"ALTER SYSTEM SET {name} = '{value}'" for name, value in settings.items()),
        "SELECT pg_reload_conf()",
    )
    assert wait_for(lambda: in_force(settings.__getitem__), seconds=20)
    try:
        yield
    finally:
        run_sql(server.dsn(), *(f"ALTER SYSTEM RESET {name}" for name in names), "SELECT pg_reload_conf()")
        assert wait_for(lambda: in_force(before.__getitem__), seconds=20)


def test_settings_that_may_lose_the_slot(group: Pipeline, broken: Breaking, shared_servers: SharedServers):
    server = shared_servers.get("leader")
    with server_settings(server, idle_replication_slot_timeout="1d"):
        broken.sees("leader.idle_slot_timeout", "warning", "1d", "ALTER SYSTEM SET idle_replication_slot_timeout = 0")
    with server_settings(server, wal_sender_timeout="0"):
        broken.sees("leader.sender_timeout", "warning", "off", "ALTER SYSTEM SET wal_sender_timeout = '60s'")
    with server_settings(server, max_slot_wal_keep_size="10GB"):
        assert not [id for id, _ in problems(group) if id == "leader.slot_wal"]
    broken.sees_nothing()


@pytest.mark.long
def test_a_slot_that_keeps_much_wal(group: Pipeline, broken: Breaking, shared_servers: SharedServers):
    with server_settings(shared_servers.get("leader"), max_wal_size="32MB"):
        group.execute("SELECT pg_logical_emit_message(false, '', repeat('x', 40000000))")
        broken.sees("leader.disk", "warning", "MB")


def test_a_label_that_only_the_leader_has(group: Pipeline, broken: Breaking):
    group.execute("ALTER TYPE mood ADD VALUE 'calm' BEFORE 'glad'")
    line = broken.sees("between.types", "failed", "ALTER TYPE public.mood ADD VALUE 'calm' AFTER 'sad'")
    run_sql(group.followers[FOLLOWER], *line.remedy.split("; "))
    broken.sees_nothing()


def test_a_table_that_left_the_publication(group: Pipeline, broken: Breaking):
    group.execute(f"ALTER PUBLICATION {group.group.slot} DROP TABLE plain")
    broken.sees("leader.publication", "failed", "public.plain is not in it any more")
    group.init()
    group.execute(f"ALTER PUBLICATION {group.group.slot} SET (publish_via_partition_root = true)")
    line = broken.sees("leader.publication", "failed", "publish_via_partition_root")
    group.execute(line.remedy)
    broken.sees_nothing()


@pytest.mark.long
def test_what_is_used_up(group: Pipeline, broken: Breaking, shared_servers: SharedServers):
    fill = "SELECT pg_create_physical_replication_slot('full_' || i) FROM generate_series(1, {free}) i"
    drop = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name ~ '^full_'"
    free = "current_setting('max_replication_slots')::int - (SELECT count(*)::int FROM pg_replication_slots)"
    group.execute(fill.format(free=free))
    broken.sees("leader.slots", "warning", "raise max_replication_slots")
    group.execute(drop)

    follower = group.followers[FOLLOWER]
    most = "current_setting('max_active_replication_origins')::int"
    run_sql(
        follower,
        "SELECT pg_replication_origin_create('full_' || i) "
        f"FROM generate_series(1, {most} - (SELECT count(*)::int FROM pg_replication_origin_status)) i",
        "SELECT pg_replication_origin_advance(roname, '0/1') FROM pg_replication_origin WHERE roname ~ '^full_'",
    )
    broken.sees("follower.origin", "failed", "max_active_replication_origins")
    run_sql(follower, "SELECT pg_replication_origin_drop(roname) FROM pg_replication_origin WHERE roname ~ '^full_'")
    broken.sees_nothing()


FOLLOWER_GRANTS = (
    "GRANT SET ON PARAMETER session_replication_role TO {role}",
    "GRANT EXECUTE ON FUNCTION pg_replication_origin_create, pg_replication_origin_oid, "
    "pg_replication_origin_session_setup, pg_replication_origin_xact_setup TO {role}",
)


def database_of(dsn: str) -> str:
    return dsn.rpartition("/")[2]


@contextmanager
def role(pipeline: Pipeline, node: str, *grants: str) -> Iterator[str]:
    """The node's dsn in the configuration logs in as it."""
    name = f"r{uuid.uuid4().hex[:8]}"
    dsn = pipeline.nodes[node]
    text = pipeline.group.config.read_text()
    assert dsn in text
    change(pipeline, node, f"CREATE ROLE {name} LOGIN", *(grant.format(role=name) for grant in grants))
    pipeline.group.config.write_text(text.replace(dsn, dsn.replace("postgres@", f"{name}@")))
    try:
        yield name
    finally:
        pipeline.group.config.write_text(text)
        change(pipeline, node, f"REASSIGN OWNED BY {name} TO postgres", f"DROP OWNED BY {name}", f"DROP ROLE {name}")


def test_rights_on_the_leader(group: Pipeline):
    grants = (
        "ALTER ROLE {role} REPLICATION",
        "GRANT USAGE ON SCHEMA public, cdc TO {role}",
        "GRANT SELECT ON cdc.identity TO {role}",
        "GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}",
        "GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO {role}",
    )
    with role(group, LEADER, *grants) as name:
        broken = Breaking(group)
        for id, status, breaks, words in (
            ("leader.role", "failed", f"ALTER ROLE {name} NOREPLICATION", f'ALTER ROLE "{name}" REPLICATION'),
            ("leader.sequences", "warning", f"REVOKE SELECT ON SEQUENCE counter FROM {name}", "public.counter"),
            ("leader.read", "warning", f"REVOKE SELECT ON child FROM {name}", "pg_read_all_data"),
            ("leader.read", "warning", "ALTER TABLE t ENABLE ROW LEVEL SECURITY", f'ALTER ROLE "{name}" BYPASSRLS'),
        ):
            group.execute(breaks)
            line = broken.sees(id, status, words)
            group.execute(line.remedy.partition(" (")[0], "ALTER TABLE t DISABLE ROW LEVEL SECURITY")
            broken.sees_nothing()


@pytest.mark.long
def test_rights_on_a_follower(group: Pipeline):
    grants = (
        *FOLLOWER_GRANTS,
        "GRANT USAGE ON SCHEMA public, cdc TO {role}",
        "GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA cdc TO {role}",
        "GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON ALL TABLES IN SCHEMA public TO {role}",
    )
    with role(group, FOLLOWER, *grants) as name:
        broken = Breaking(group)
        assert {id for id, _ in problems(group)} >= {"follower.can_lead"}
        for id, breaks, repairs, words in (
            (
                "follower.replica_role",
                "REVOKE SET ON PARAMETER session_replication_role FROM {0}",
                "",
                "GRANT SET ON PARAMETER",
            ),
            ("follower.origin", "REVOKE EXECUTE ON FUNCTION pg_replication_origin_oid FROM {0}", "", "GRANT EXECUTE"),
            ("follower.grants", "REVOKE INSERT ON t FROM {0}", "GRANT INSERT ON t TO {0}", "public.t"),
            (
                "follower.grants",
                "REVOKE UPDATE ON cdc.position FROM {0}",
                "GRANT UPDATE ON cdc.position TO {0}",
                "SCHEMA cdc",
            ),
        ):
            change(group, FOLLOWER, breaks.format(name))
            line = broken.sees(id, "failed", words)
            change(group, FOLLOWER, repairs.format(name) or line.remedy)
            broken.sees_nothing()


class TestBefore:
    """Nothing is made yet, and nothing is made by looking."""

    def test_init_and_bootstrap(self, pipelines: Pipelines, kafka: KafkaServer):
        pipeline = pipelines.new(TABLE)
        before = check(pipeline)
        assert before.count(Status.FAILED) == 0
        assert rows_of(pipeline.leader, "SELECT to_regnamespace('cdc')") == [(None,)]
        assert not Topic(kafka, pipeline.group.topic).exists()
        pipeline.init()
        assert check(pipeline).count(Status.FAILED) == 0
        assert rows_of(pipeline.followers[FOLLOWER], "SELECT to_regnamespace('cdc')") == [(None,)]

    def test_no_table(self, pipelines: Pipelines):
        pipeline = pipelines.new(TABLE)
        broken = Breaking(pipeline)
        pipeline.execute("DROP TABLE t")
        broken.sees("leader.tables", "failed", "public.*")

    @pytest.mark.long
    def test_a_foreign_key_that_a_copy_could_not_build(self, pipelines: Pipelines):
        pipeline = pipelines.new(TABLE, "CREATE SCHEMA side", "CREATE TABLE side.place (id int PRIMARY KEY)")
        broken = Breaking(pipeline)
        pipeline.execute("ALTER TABLE t ADD FOREIGN KEY (id) REFERENCES side.place")
        broken.sees("leader.foreign_keys", "failed", "public.t to side.place")

    def test_roles_that_own_nothing(self, pipelines: Pipelines):
        pipeline = pipelines.new(TABLE)
        create = f'GRANT CREATE ON DATABASE "{database_of(pipeline.leader)}" TO {{role}}'
        grants = ("ALTER ROLE {role} REPLICATION", "ALTER TABLE t OWNER TO {role}", create)
        with role(pipeline, LEADER, *grants) as name:
            broken = Breaking(pipeline)
            pipeline.execute("ALTER TABLE t OWNER TO postgres", f"GRANT SELECT ON t TO {name}")
            broken.sees("leader.owner", "failed", f'GRANT "postgres" TO "{name}"')
            pipeline.execute(f"ALTER TABLE t OWNER TO {name}")
            pipeline.execute(f'REVOKE CREATE ON DATABASE "{database_of(pipeline.leader)}" FROM {name}')
            line = broken.sees("leader.create", "failed", f'TO "{name}"')
            pipeline.execute(line.remedy)
            broken.sees_nothing()

    @pytest.mark.long
    def test_a_follower_of_a_role_that_owns_nothing(self, pipelines: Pipelines):
        pipeline = pipelines.new(TABLE)
        grants = (*FOLLOWER_GRANTS, f'ALTER DATABASE "{database_of(pipeline.followers[FOLLOWER])}" OWNER TO {{role}}')
        with role(pipeline, FOLLOWER, *grants) as name:
            broken = Breaking(pipeline)
            database = database_of(pipeline.followers[FOLLOWER])
            change(
                pipeline,
                FOLLOWER,
                f'ALTER DATABASE "{database}" OWNER TO postgres',
                f'GRANT CREATE ON DATABASE "{database}" TO {name}',
            )
            line = broken.sees("follower.owner", "failed", "ALTER DATABASE")
            change(pipeline, FOLLOWER, line.remedy.partition(", or")[0])
            broken.sees_nothing()

    def test_a_follower_that_is_not_empty(self, pipelines: Pipelines):
        pipeline = pipelines.new(TABLE)
        broken = Breaking(pipeline)
        run_sql(pipeline.followers[FOLLOWER], "CREATE TABLE mine (id int)")
        broken.sees("follower.state", "failed", "1 tables and views")

    @pytest.mark.long
    def test_one_database_for_both(self, pipelines: Pipelines):
        pipeline = pipelines.new(TABLE).init()
        broken = Breaking(pipeline)
        config = pipeline.group.config
        config.write_text(config.read_text().replace(pipeline.followers[FOLLOWER], pipeline.leader))
        broken.sees("between.database", "failed", f"dsn of {FOLLOWER}")

    def test_a_topic_that_is_gone_or_was_changed(self, pipelines: Pipelines, kafka: KafkaServer):
        pipeline = pipelines.new(TABLE).init()
        broken = Breaking(pipeline)
        topic = Topic(kafka, pipeline.group.topic)
        admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
        admin.create_partitions([NewPartitions(topic.name, 2)])[topic.name].result(20)
        assert wait_for(lambda: any(id == "kafka.partitions" for id, _ in problems(pipeline)), seconds=20)
        broken.sees("kafka.partitions", "failed", "2 partitions")
        topic.delete_records_before(topic.high_watermark())
        assert ("kafka.log", topic.name) in problems(pipeline)
        topic.delete()
        broken.sees("kafka.topic", "failed", "was deleted")
        topic.create()
        assert "made anew" in problems(pipeline)["kafka.topic", topic.name].found

    @pytest.mark.long
    @pytest.mark.parametrize(
        ("leader", "follower", "id"),
        [
            ("ENCODING 'SQL_ASCII' LOCALE 'C'", "ENCODING 'SQL_ASCII' LOCALE 'C'", "leader.encoding"),
            (USUAL, "ENCODING 'LATIN1' LOCALE 'C'", "between.encoding"),
            (USUAL, f"{USUAL} LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8'", "between.collation"),
        ],
        ids=["ascii", "encoding", "collation"],
    )
    def test_how_text_is_kept(
        self, shared_servers: SharedServers, kafka: KafkaServer, tmp_path: Path, leader: str, follower: str, id: str
    ):
        name = f"text_{uuid.uuid4().hex[:8]}"
        servers = shared_servers.get("leader"), shared_servers.get("follower")
        here, there = (server.dsn(name) for server in servers)

        def make(*options: str) -> None:
            for server, option in zip(servers, options, strict=True):
                server.drop_database(name)
                run_sql(server.dsn(), f"CREATE DATABASE {name} TEMPLATE template0 {option}")
            run_sql(here, TABLE)

        with Pipeline(tmp_path, here, {FOLLOWER: there}, kafka.bootstrap_servers) as pipeline:
            for server in servers:
                pipeline.on_close(server.drop_database, name)
            make(USUAL, USUAL)
            broken = Breaking(pipeline)
            make(leader, follower)
            broken.sees(id, "warning")


def test_a_group_at_work_and_after_a_promotion(pipelines: Pipelines):
    pipeline = pipelines.new(TABLE).init().bootstrap().start()
    pipeline.start_apply(LEADER)
    pipeline.execute("INSERT INTO t VALUES (1, 'a')")
    pipeline.catch_up()
    assert [line for line in check(pipeline).lines if line.status is Status.FAILED] == []
    promote(pipeline, FOLLOWER)
    report = check(pipeline)
    assert report.leader == FOLLOWER
    assert [line for line in report.lines if line.status is Status.FAILED] == []
    assert {line.place for line in report.lines} == {FOLLOWER, LEADER, pipeline.group.topic, f"{FOLLOWER} -> {LEADER}"}
