"""cdc init: everything or nothing, as often as one likes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import psycopg
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType
from confluent_kafka.cimpl import NewTopic

from cdc.capture_ports import LeaderIdentity
from cdc.errors import CheckError, LogError, RetryableError, SlotError
from cdc.local import KafkaServer
from cdc.services.initialize import Initializer, InitializeSettings, Step
from connectors.kafka.admin import LogAdmin, TopicSettings
from connectors.kafka.consumer import LogReader
from connectors.kafka.producer import LogProducer
from connectors.kafka.settings import common_settings
from connectors.postgres.leader import Leader
from tests.fixtures.servers import OwnPostgres
from tests.support.pipeline import rows_of, run_sql

TABLE = "CREATE TABLE ledger (id bigint PRIMARY KEY, note text)"


class Killed(BaseException):
    """The process is gone: nothing that comes after it is run."""


class Setup:
    """One group on an empty leader database; `init` is `cdc init` without the command line."""

    def __init__(self, dsn: str, bootstrap_servers: str, group: str) -> None:
        self.dsn = dsn
        self.client = common_settings(bootstrap_servers, "test")
        self.settings = InitializeSettings(group, "us-east", f"{group}.log", f"cdc_{group}", ("public.*",))
        self.topic = TopicSettings(1, 1)
        self.admin = AdminClient({"bootstrap.servers": bootstrap_servers})

    def init(self, leader: Callable[[], Leader] | None = None) -> list[Step]:
        topic = self.settings.topic
        return Initializer(
            self.settings,
            leader or (lambda: Leader(self.dsn, "cdc init", "us-east")),
            LogAdmin(self.client, topic, self.topic),
            lambda: LogReader(self.client, topic),
            lambda max_message_bytes: LogProducer(self.client, topic, max_message_bytes),
        ).run()

    def made(self) -> list[str]:
        """What of the group exists."""
        queries = {
            "publication": f"SELECT FROM pg_publication WHERE pubname = '{self.settings.slot}'",
            "slot": f"SELECT FROM pg_replication_slots WHERE slot_name = '{self.settings.slot}'",
            "schema": "SELECT FROM pg_namespace WHERE nspname = 'cdc'",
        }
        found = [name for name, query in queries.items() if rows_of(self.dsn, query)]
        if self.settings.topic in self.admin.list_topics(timeout=10).topics:
            found.append("topic")
        return found

    def create_topic(self, partitions: int = 1, **config: str) -> None:
        new = NewTopic(self.settings.topic, partitions, 1, config=config)
        self.admin.create_topics([new])[self.settings.topic].result(10)

    def identify(self, change: Callable[[LeaderIdentity], LeaderIdentity]) -> None:
        """Change what is written down on the leader."""
        with Leader(self.dsn, "test", "us-east") as leader:
            identity = leader.identity(self.settings.group)
            assert identity is not None
            leader.store_identity(change(identity))


@pytest.fixture
def setup(leader_db: str, kafka: KafkaServer) -> Iterator[Setup]:
    setup = Setup(leader_db, kafka.bootstrap_servers, psycopg.conninfo.conninfo_to_dict(leader_db)["dbname"])  # type: ignore[arg-type]
    run_sql(leader_db, TABLE)
    yield setup
    run_sql(
        leader_db,
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()",
    )


class TestSteps:
    def test_all_is_made_once_and_then_found(self, setup: Setup, postgres_version: int) -> None:
        first = setup.init()
        assert [(step.name, step.made) for step in first] == [
            ("publication", True), ("topic", True), ("identity", True), ("slot", True), ("log", True),
        ]  # fmt: skip
        assert [step.made for step in setup.init()] == [False] * 5

    def test_a_table_that_came_later_is_published_by_another_run(self, setup: Setup) -> None:
        setup.init()
        run_sql(setup.dsn, "CREATE TABLE later (id int PRIMARY KEY)")
        assert [step.name for step in setup.init() if step.made] == ["publication", "table"]
        tables = rows_of(setup.dsn, "SELECT tablename FROM pg_publication_tables ORDER BY 1")
        assert tables == [("later",), ("ledger",)]

    @pytest.mark.parametrize("step", ["publish", "store_identity", "create_slot"])
    @pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
    def test_a_run_that_was_killed_is_completed_by_another_one(self, setup: Setup, step: str, before: bool) -> None:
        with killed_at(step, before) as leader, pytest.raises(Killed):
            setup.init(lambda: leader(setup.dsn, "cdc init", "us-east"))
        assert setup.init()[-1].made
        assert [made.made for made in setup.init()] == [False] * 5

    def test_our_own_and_system_tables_and_what_does_not_match_are_not_published(self, setup: Setup) -> None:
        run_sql(
            setup.dsn,
            "CREATE SCHEMA cdc",
            "CREATE TABLE cdc.mine (id int PRIMARY KEY)",
            "CREATE UNLOGGED TABLE fleeting (id int PRIMARY KEY)",
            "CREATE SCHEMA other",
            "CREATE TABLE other.t (id int PRIMARY KEY)",
            'CREATE TABLE public."odd.name" (id int PRIMARY KEY)',
            "CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id)",
            "CREATE TABLE part_1 PARTITION OF parts FOR VALUES FROM (1) TO (10)",
        )
        setup.settings = replace(setup.settings, tables=("*.*",))
        setup.init()
        published = {f"{schema}.{name}" for schema, name in rows_of(
            setup.dsn, "SELECT schemaname, tablename FROM pg_publication_tables")}  # fmt: skip
        assert published == {"public.ledger", "other.t", "public.odd.name", "public.part_1"}


class TestRefusals:
    def test_wal_level(self, own_postgres: OwnPostgres, kafka: KafkaServer) -> None:
        server = own_postgres(settings={"wal_level": "replica"})
        setup = Setup(server.create_database("plain"), kafka.bootstrap_servers, "plainwal")
        run_sql(setup.dsn, TABLE)
        refused(setup, "wal_level is replica")

    def test_a_role_that_may_not_replicate(self, setup: Setup, leader_db: str) -> None:
        role = f"r{setup.settings.group}"
        run_sql(leader_db, f"CREATE ROLE {role} LOGIN", f"ALTER TABLE ledger OWNER TO {role}")
        try:
            owner_dsn, setup.dsn = setup.dsn, setup.dsn.replace("postgres@", f"{role}@", 1)
            refused(setup, "may not replicate")
        finally:
            run_sql(owner_dsn, f"REASSIGN OWNED BY {role} TO postgres", f"DROP ROLE {role}")

    @pytest.mark.parametrize(
        "table",
        [
            "id int PRIMARY KEY DEFERRABLE",
            "id int NOT NULL, CONSTRAINT by_index UNIQUE (id)); "
            "ALTER TABLE loose REPLICA IDENTITY USING INDEX by_index; "
            "ALTER TABLE loose DROP CONSTRAINT by_index, ADD CHECK (true",
        ],
    )
    def test_a_table_whose_key_is_no_replica_identity(self, setup: Setup, table: str) -> None:
        run_sql(setup.dsn, f"CREATE TABLE loose ({table})")
        refused(setup, "no replica identity: public.loose")
        run_sql(setup.dsn, "ALTER TABLE loose REPLICA IDENTITY FULL")
        setup.init()

    def test_partitions_that_are_published_as_their_root(self, setup: Setup) -> None:
        setup.init()
        run_sql(setup.dsn, f"ALTER PUBLICATION {setup.settings.slot} SET (publish_via_partition_root = true)")
        with pytest.raises(CheckError, match="a TRUNCATE of a partition would be lost"):
            setup.init()

    def test_a_table_without_replica_identity(self, setup: Setup) -> None:
        run_sql(setup.dsn, "CREATE TABLE loose (v int)")
        refused(setup, "no replica identity: public.loose")
        run_sql(setup.dsn, "ALTER TABLE loose REPLICA IDENTITY FULL")
        assert setup.init()

    def test_no_table(self, setup: Setup) -> None:
        run_sql(setup.dsn, "DROP TABLE ledger")
        refused(setup, "no table matches")

    def test_a_slot_of_somebody_else(self, setup: Setup) -> None:
        run_sql(setup.dsn, f"SELECT pg_create_logical_replication_slot('{setup.settings.slot}', 'pgoutput')")
        with pytest.raises(CheckError, match="did not make it"):
            setup.init()
        assert setup.made() == ["slot"]

    @pytest.mark.parametrize(
        ("partitions", "config", "words"),
        [(2, {}, "2 partitions"), (1, {"cleanup.policy": "compact"}, "compaction")],
    )
    def test_a_topic_that_cannot_be_a_log(
        self, setup: Setup, partitions: int, config: dict[str, str], words: str
    ) -> None:
        setup.create_topic(partitions, **config)
        with pytest.raises(CheckError, match=words):
            setup.init()
        assert setup.made() == ["topic"]

    def test_more_replicas_than_brokers(self, setup: Setup) -> None:
        setup.topic = TopicSettings(3, 2)
        refused(setup, "replication_factor")

    def test_a_slot_that_is_gone_while_the_log_has_records(self, setup: Setup) -> None:
        setup.init()
        run_sql(setup.dsn, f"SELECT pg_drop_replication_slot('{setup.settings.slot}')")
        with pytest.raises(SlotError, match="does not exist"):
            setup.init()
        assert "slot" not in setup.made()

    def test_a_topic_that_was_replaced(self, setup: Setup) -> None:
        setup.init()
        setup.identify(lambda identity: replace(identity, topic_id="another"))
        with pytest.raises(CheckError, match="made anew"):
            setup.init()

    def test_a_log_that_another_leader_feeds(self, setup: Setup) -> None:
        setup.init()
        run_sql(setup.dsn, "DELETE FROM cdc.identity", f"SELECT pg_drop_replication_slot('{setup.settings.slot}')")
        with pytest.raises(CheckError, match="does not lead it"):
            setup.init()

    def test_a_log_of_another_epoch(self, setup: Setup) -> None:
        setup.init()
        setup.identify(lambda identity: replace(identity, epoch=2))
        with pytest.raises(CheckError, match="epoch 1"):
            setup.init()

    def test_kafka_that_is_not_there(self, setup: Setup) -> None:
        setup.client = common_settings("127.0.0.1:1", "test")
        with pytest.raises(RetryableError, match="kafka"):
            setup.init()
        assert setup.made() == []


class TestReader:
    """Reading never jumps."""

    def test_an_offset_past_the_end_is_an_error(self, setup: Setup) -> None:
        setup.init()
        with LogReader(setup.client, setup.settings.topic) as reader:
            reader.seek(100)
            with pytest.raises(LogError, match="past the end"):
                consume_until_error(reader)

    def test_an_offset_that_was_removed_is_an_error_that_names_what_is_lost(self, setup: Setup) -> None:
        setup.init()
        topic = setup.settings.topic
        with LogProducer(setup.client, topic, 1_000_000) as producer:
            producer.publish([(None, b"{}")] * 9, 1)
            assert producer.flush(10)
        for future in setup.admin.delete_records([TopicPartition(topic, 0, 5)]).values():
            future.result(10)
        with LogReader(setup.client, topic) as reader:
            reader.seek(2)
            with pytest.raises(LogError, match="offsets 2 to 4 were removed"):
                consume_until_error(reader)
            reader.seek(reader.watermarks()[0])
            assert [message.offset() for message in reader.consume(10, 5.0)][:1] == [5]

    def test_a_log_without_a_whole_transaction_is_an_error(self, setup: Setup) -> None:
        setup.create_topic()
        with LogReader(setup.client, setup.settings.topic) as reader:
            assert reader.read_tail() is None
            with LogProducer(setup.client, setup.settings.topic, 1_000_000) as producer:
                producer.publish([(None, b'{"op":"c","cdc":{"epoch":1,"commit_lsn":5,"prev":1,"seq":1}}')], 1)
                assert producer.flush(10)
            with pytest.raises(LogError, match="no complete transaction"):
                reader.read_tail()

    def test_the_tail_is_found_behind_a_huge_unfinished_transaction(self, setup: Setup) -> None:
        setup.init()
        topic = setup.settings.topic
        with LogReader(setup.client, topic) as reader, LogProducer(setup.client, topic, 1_000_000) as producer:
            tail = reader.read_tail()
            assert tail is not None
            commit_lsn = tail.commit_lsn + 1000
            value = b'{"op":"c","cdc":{"epoch":1,"commit_lsn":%d,"prev":%d,"seq":%d}}'
            records = [(None, value % (commit_lsn, tail.commit_lsn, seq)) for seq in range(1, 30_001)]
            producer.publish(records, 1)
            assert producer.flush(20)
            found = reader.read_tail()
        assert found is not None
        assert (found.commit_lsn, found.partial_commit_lsn, found.partial_seq) == (tail.commit_lsn, commit_lsn, 30_000)


def test_the_topic_is_one_partition_that_keeps_everything(setup: Setup) -> None:
    setup.topic = TopicSettings(1, 1, retention_ms=3_600_000, max_message_bytes=123_456)
    setup.init()
    resource = ConfigResource(ResourceType.TOPIC, setup.settings.topic)
    config = setup.admin.describe_configs([resource])[resource].result(10)
    assert config["cleanup.policy"].value == "delete"
    assert config["retention.ms"].value == "3600000"
    assert config["max.message.bytes"].value == "123456"


def refused(setup: Setup, words: str) -> None:
    with pytest.raises(CheckError, match=words) as caught:
        setup.init()
    assert caught.value.remedy
    assert setup.made() == []


def consume_until_error(reader: LogReader) -> None:
    for _ in range(20):
        reader.consume(10, 1.0)


@contextmanager
def killed_at(step: str, before: bool) -> Iterator[type[Leader]]:
    """A leader whose `step` ends everything, before or after it is done."""

    class Mortal(Leader):
        pass

    real = getattr(Leader, step)

    def die(self: Leader, *arguments: object) -> None:
        if not before:
            real(self, *arguments)
        raise Killed

    setattr(Mortal, step, die)
    yield Mortal
