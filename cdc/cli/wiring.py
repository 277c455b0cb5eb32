"""The composition root: settings in, running parts out. The only place that knows the connectors."""

from __future__ import annotations

import getpass
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from cdc.capture_ports import SystemFacts
from cdc.check_ports import FollowerNode, KafkaFacts, LaterLook, NodeReading
from cdc.config import Settings
from cdc.copy_ports import SchemaChoice
from cdc.errors import BlockedError, CdcError, CheckError, LogError, RetryableError
from cdc.events.position import Token, TransactionName
from cdc.events.table import matches
from cdc.log.tail import LogTail
from cdc.ports import FollowerFacts, LeaderState, NodeProgress
from cdc.promotion_ports import PromotionNode
from cdc.retry import at_most_every
from cdc.services.apply import ApplyService
from cdc.services.ask import Answer, ask_all
from cdc.services.capture import CaptureService, CaptureSettings
from cdc.services.checks.check import Group, Wanted, group_of, leader_by_own_account
from cdc.services.checks.report import CheckReport, check_group
from cdc.services.guardian import topic_warnings
from cdc.services.health import Health
from cdc.services.initialize import Initializer, InitializeSettings
from cdc.services.lag import GroupLook, LagReport, LogLook
from cdc.services.lag import lag_report as lag_of
from cdc.services.log_end import LogEnd
from cdc.services.meters import ApplyMeter, CaptureMeter
from cdc.services.promote import Hooks, Promotion
from cdc.services.promotion_survey import PromoteOptions, PromoteSettings, Survey, World
from cdc.services.rejoin import Rejoin, RejoinSettings
from cdc.services.skip import Skipped, skip
from cdc.services.stale_leader import close_stale_leader
from cdc.services.status import GroupStatus, node_status
from cdc.stop import StopToken
from connectors.kafka.admin import LogAdmin, TopicSettings
from connectors.kafka.consumer import REQUEST_SECONDS, LogReader
from connectors.kafka.preflight import read_kafka
from connectors.kafka.producer import LogProducer
from connectors.kafka.settings import Settings as ClientSettings
from connectors.kafka.settings import common_settings, in_small_steps
from connectors.postgres.connection import ANSWER_SECONDS, connect, open_connection, translated
from connectors.postgres.initial_copy import PostgresInitialCopy
from connectors.postgres.leader import Leader
from connectors.postgres.node_status import follower_facts, leader_state, node_progress
from connectors.postgres.preflight import misplaced, read_node
from connectors.postgres.promotion_node import PostgresNode
from connectors.postgres.recopy import PostgresRecopy
from connectors.postgres.replication import ReplicationStream
from connectors.postgres.snapshot_source import Ends
from connectors.postgres.takeover import PostgresTakeover
from connectors.postgres.target import PostgresTarget
from connectors.postgres.waiting import current_token as postgres_token
from connectors.postgres.waiting import wait_for as postgres_wait

_LAG_SECONDS = 3.5
"""Whoever asks for lag waits for no server longer than this, twice at most."""
_SECOND_LOOK_SECONDS = 1.0
_LOG = "the log in Kafka"
"""What is asked, as a line calls it that says it did not answer; no name of a node."""
STATUS_SECONDS = 8.0
"""`cdc status` answers in ten; the rest is for starting Python."""
CHECK_SECONDS = 5.0
"""So does `cdc check`: it asks everybody at once, and then, half as long, followers about the leader's tables."""


def _client(settings: Settings, role: str) -> ClientSettings:
    kafka = settings.kafka
    return common_settings(kafka.bootstrap_servers, f"cdc-{settings.group}-{role}", kafka.client)


@contextmanager
def log_reader(settings: Settings, role: str, answer_seconds: float = REQUEST_SECONDS) -> Iterator[LogReader]:
    """A reader of the group's log; `role` is what the brokers see."""
    with LogReader(_client(settings, role), settings.topic, answer_seconds) as reader:
        yield reader


def leader_of(settings: Settings, tail: LogTail | None) -> str:
    """The node that the log names; at its beginning the one of the configuration. Raises ConfigError for an unknown."""
    node = tail.leader if tail is not None and tail.leader else settings.leader
    settings.dsn_of(node)
    return node


def known_leader(settings: Settings, role: str) -> str:
    """Who leads, as far as it can be known. What is wrong with the log is for the caller to find out."""
    with log_reader(settings, role) as reader:
        try:
            tail = reader.read_tail(depth_bytes=_deep(settings))
        except (LogError, RetryableError):
            tail = None
    return leader_of(settings, tail)


@dataclass(frozen=True)
class KnownLeader:
    """Who leads, and since which epoch."""

    name: str
    epoch: int


def leader(settings: Settings) -> KnownLeader:
    """What the log says. Raises LogError when it does not say."""
    tail = _log_end(settings, "leader")
    return KnownLeader(leader_of(settings, tail), tail.epoch)


def address(settings: Settings, node: str) -> dict[str, str]:
    """Where clients find it: host, port, dbname and user of its dsn, never a password."""
    known = conninfo_to_dict(settings.dsn_of(node))
    return {name: str(known[name]) for name in ("host", "port", "dbname", "user") if known.get(name)}


def connection_string(parts: dict[str, str]) -> str:
    """For libpq."""
    return make_conninfo("", **parts)


@contextmanager
def promotion(
    settings: Settings, options: PromoteOptions, hooks: Hooks, tell: Callable[[str], None]
) -> Iterator[tuple[Survey, Promotion]]:
    """What `cdc promote` looks with, and what it runs."""
    client = _client(settings, "promote")
    with log_reader(settings, "promote") as reader:
        world = World(
            node=lambda name: PostgresNode(settings.dsn_of(name), name, settings.group, settings.topic),
            system=cache(lambda name: _system(settings, name)),
            log=reader,
            topic=_topic(settings, client),
            writer=lambda max_message_bytes: LogProducer(client, settings.topic, max_message_bytes),
        )
        nodes = PromoteSettings(
            settings.group, settings.topic, settings.slot, settings.capture.tables, list(settings.nodes),
            _deep(settings),
        )  # fmt: skip
        with closing(Survey(nodes, options, world)) as survey:
            yield survey, Promotion(survey, hooks, tell)


def rejoin(
    settings: Settings, node: str, grace_seconds: float, tell: Callable[[str], None], reader: LogReader
) -> Rejoin:
    """What `cdc rejoin` runs."""
    dsn = settings.dsn_of(node)

    def takeover(leader: str, joining: PromotionNode) -> PostgresTakeover:
        assert isinstance(joining, PostgresNode)
        return PostgresTakeover(settings.dsn_of(leader), leader, joining, settings.slot)

    return Rejoin(
        RejoinSettings(settings.group, settings.topic, settings.slot, node, _deep(settings), grace_seconds),
        lambda: PostgresNode(dsn, node, settings.group, settings.topic),
        lambda: Leader(dsn, "cdc rejoin", node),
        lambda: ReplicationStream(dsn, "cdc rejoin", node),
        reader,
        takeover,
        tell,
    )


def _system(settings: Settings, name: str) -> SystemFacts:
    with ReplicationStream(settings.dsn_of(name), "cdc promote", name) as stream:
        return stream.identify()


def _deep(settings: Settings) -> int:
    """How far back an `epoch` record may be hidden behind records of a leader that did not know of it yet."""
    return settings.capture.max_in_flight_bytes + 2 * 2**20


def initializer(settings: Settings) -> Initializer:
    """What `cdc init` runs."""
    client = _client(settings, "init")
    node = known_leader(settings, "init")
    dsn = settings.dsn_of(node)
    return Initializer(
        InitializeSettings(settings.group, node, settings.topic, settings.slot, settings.capture.tables),
        lambda: Leader(dsn, "cdc init", node),
        _topic(settings, client),
        lambda: LogReader(client, settings.topic),
        lambda max_message_bytes: LogProducer(client, settings.topic, max_message_bytes),
    )


def capture_service(settings: Settings, node: str | None, health: Health, meter: CaptureMeter) -> CaptureService:
    """What `cdc capture` runs; with a `node`, for that one only."""
    client = _client(settings, "capture")
    return CaptureService(
        CaptureSettings(
            settings.group,
            settings.leader,
            settings.topic,
            settings.slot,
            node,
            settings.capture.heartbeat_seconds,
            settings.capture.max_in_flight_bytes,
        ),
        lambda name: Leader(settings.dsn_of(name), "cdc capture", name, ANSWER_SECONDS),
        lambda name: ReplicationStream(settings.dsn_of(name), "cdc capture", name),
        _topic(settings, client),
        lambda: LogReader(in_small_steps(client), settings.topic),
        lambda max_message_bytes, next_offset: LogProducer(client, settings.topic, max_message_bytes, next_offset),
        health,
        meter,
    )


def apply_service(
    settings: Settings, follower: str, dsn: str, stop: StopToken, health: Health, meter: ApplyMeter
) -> ApplyService:
    """What `cdc apply` runs."""
    patterns = settings.apply.overwrite
    target = PostgresTarget(
        dsn, follower, settings.topic, stop.wait,
        lambda table: matches(table, patterns), actor(),
    )  # fmt: skip
    client = _client(settings, f"apply-{follower}")

    log_end = LogEnd(_deep(settings))

    def while_leading() -> None:
        with log_reader(settings, "fence") as reader:
            close_stale_leader(
                lambda: PostgresNode(dsn, follower, settings.group, settings.topic),
                lambda: log_end.read(reader),
                settings.slot,
            )

    return ApplyService(
        lambda: LogReader(client, settings.topic), target, follower, while_leading=at_most_every(10.0, while_leading),
        health=health, meter=meter,
    )  # fmt: skip


def actor() -> str:
    """user@host: who runs this command, for the record."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def skip_transaction(settings: Settings, follower: str, name: TransactionName, reason: str, file: Path) -> Skipped:
    """What `cdc skip` runs."""
    target = PostgresTarget(settings.dsn_of(follower), follower, settings.topic, StopToken().wait)
    try:
        with log_reader(settings, f"skip-{follower}") as reader:
            return skip(reader, target, follower, name, reason, actor(), file)
    finally:
        target.close()


def group_status(settings: Settings) -> GroupStatus:
    """What `cdc status` shows; who cannot be reached says why, and nothing takes longer than ten seconds."""
    (end,) = ask_all({_LOG: lambda: _log_end(settings, "status")}, STATUS_SECONDS / 2).values()
    tail = None if isinstance(end, CdcError) else end
    leader = leader_of(settings, tail) if tail is not None else settings.leader

    def as_leader() -> LeaderState:
        with connect(settings.dsn_of(leader), "cdc status", leader, answer_seconds=STATUS_SECONDS / 2) as connection:
            return leader_state(connection, settings.slot, settings.topic, leader)

    def as_follower(name: str) -> Callable[[], FollowerFacts]:
        def ask() -> FollowerFacts:
            with connect(settings.dsn_of(name), "cdc status", name, answer_seconds=STATUS_SECONDS / 2) as connection:
                return follower_facts(connection, settings.topic, name)

        return ask

    followers = [name for name in settings.nodes if name != leader]
    questions: dict[str, Callable[[], LeaderState | FollowerFacts]] = {leader: as_leader}
    questions.update({name: as_follower(name) for name in followers})
    told = ask_all(questions, STATUS_SECONDS / 2)
    nodes = tuple(node_status(name, told[name], leads=name == leader) for name in questions)
    return GroupStatus(
        settings.group, leader, tail.epoch if tail else None, str(tail.end_lsn) if tail else None, nodes,
        str(end) if isinstance(end, CdcError) else None,
    )  # fmt: skip


def checked(settings: Settings) -> CheckReport:
    """What `cdc check` shows; nothing is written, and nothing takes longer than ten seconds."""
    log_name = f"topic {settings.topic}"
    nodes = {name: partial(_read_node, settings, name) for name in settings.nodes}
    questions: dict[str, Callable[[], KafkaFacts | NodeReading]] = {log_name: partial(_read_kafka, settings), **nodes}
    told = ask_all(questions, CHECK_SECONDS)
    kafka = told[log_name]
    assert not isinstance(kafka, NodeReading)
    read = {name: _as_node(told[name]) for name in settings.nodes}
    tail = kafka.tail if isinstance(kafka, KafkaFacts) else None
    leader = leader_of(settings, tail) if tail else leader_by_own_account(read) or settings.leader
    wanted = Wanted(
        settings.group, settings.topic, settings.slot, settings.capture.tables, settings.kafka.max_record_bytes
    )
    group = group_of(wanted, leader, kafka, read)
    later: dict[str, Callable[[], LaterLook | list[BlockedError]]] = {**_placements(settings, group)}
    if group.log_is_led:
        later[log_name] = partial(_look_again, settings, leader)
    again = ask_all(later, CHECK_SECONDS / 2)
    end = again.pop(log_name, None)
    assert not isinstance(end, list)
    return check_group(
        replace(group, later=end, misplaced={n: told for n, told in again.items() if not isinstance(told, LaterLook)})
    )


def _read_kafka(settings: Settings) -> KafkaFacts:
    with log_reader(settings, "check") as reader:
        return read_kafka(_topic(settings, _client(settings, "check")), reader, _deep(settings))


def _read_node(settings: Settings, name: str) -> NodeReading:
    with connect(settings.dsn_of(name), "cdc check", name, answer_seconds=CHECK_SECONDS) as connection:
        return read_node(connection, settings.group, settings.slot, settings.topic, name)


def _as_node(told: KafkaFacts | NodeReading | CdcError) -> NodeReading | CdcError:
    assert not isinstance(told, KafkaFacts)
    return told


def _look_again(settings: Settings, leader: str) -> LaterLook:
    tail = _tail(settings, "check")
    with Leader(settings.dsn_of(leader), "cdc check", leader, CHECK_SECONDS / 2) as connection:
        return LaterLook(tail, connection.wal_lsn())


def _placements(settings: Settings, group: Group) -> dict[str, Callable[[], list[BlockedError]]]:
    """Of each follower that holds the leader's tables: whether it has a place for their rows."""

    def ask(node: FollowerNode) -> list[BlockedError]:
        name = node.node.name
        with connect(settings.dsn_of(name), "cdc check", name, answer_seconds=CHECK_SECONDS / 2) as connection:
            return misplaced(connection, group.tables, node.node, settings.topic)

    return {
        name: partial(ask, node)
        for name, node in group.followers.items()
        if isinstance(node, FollowerNode) and node.copied and group.tables
    }


def _tail(settings: Settings, role: str) -> LogTail | None:
    """Where the log ends, looked for deep; None when nothing was ever published."""
    with log_reader(settings, role) as reader:
        return reader.read_tail(depth_bytes=_deep(settings))


def _log_end(settings: Settings, role: str) -> LogTail:
    """Raises LogError when there is none."""
    tail = _tail(settings, role)
    if tail is None:
        raise LogError("the log is empty", "run: cdc init", settings.topic)
    return tail


def _topic(settings: Settings, client: ClientSettings) -> LogAdmin:
    kafka = settings.kafka
    made = TopicSettings(
        kafka.replication_factor, kafka.min_insync_replicas, kafka.retention_hours * 3_600_000, kafka.max_record_bytes
    )
    return LogAdmin(client, settings.topic, made)


@contextmanager
def initial_copy(
    settings: Settings, follower: str, dsn: str, choice: SchemaChoice
) -> Iterator[tuple[PostgresInitialCopy, LogReader]]:
    """Raises CheckError when that node leads."""
    copy = PostgresInitialCopy(_ends(settings, follower, dsn), choice)
    with closing(copy), log_reader(settings, f"bootstrap-{follower}") as reader:
        yield copy, reader


@contextmanager
def table_copy(
    settings: Settings, follower: str, dsn: str, patterns: Sequence[str]
) -> Iterator[tuple[PostgresRecopy, LogReader]]:
    """Raises CheckError when that node leads."""
    copy = PostgresRecopy(_ends(settings, follower, dsn), lambda table: matches(table, patterns), actor())
    with closing(copy), log_reader(settings, f"bootstrap-{follower}") as reader:
        yield copy, reader


def _ends(settings: Settings, follower: str, dsn: str) -> Ends:
    leader = known_leader(settings, "bootstrap")
    if follower == leader:
        raise CheckError(f"{follower} leads this group", "name another node", settings.topic)
    return Ends(settings.dsn_of(leader), leader, dsn, follower, settings.slot, settings.topic)


def current_token(settings: Settings) -> tuple[Token, CheckError | None]:
    """What the leader has committed by now; and what to know when the log could not say who leads, so that it is of the
    node that the configuration names. Raises CheckError when it cannot be told."""
    tail = unknown = None
    try:
        tail = _tail(settings, "token")
    except (LogError, RetryableError) as error:
        why = f"who leads cannot be asked, {settings.leader} does by the configuration: {error.what}"
        unknown = CheckError(why, error.remedy, error.where)
    node = leader_of(settings, tail)
    with connect(settings.dsn_of(node), "cdc token", node, answer_seconds=_LAG_SECONDS) as connection:
        return postgres_token(connection, settings.group, node), unknown


def wait_for(settings: Settings, follower: str, wanted: str, seconds: float) -> bool:
    """Whether the follower shows `wanted`, a token or an LSN of the present leader, within `seconds`."""
    patience = seconds + ANSWER_SECONDS
    with connect(settings.dsn_of(follower), "cdc wait", follower, answer_seconds=patience) as connection:
        return postgres_wait(connection, wanted, seconds, follower)


def lag_report(settings: Settings) -> LagReport:
    """A second look tells rates, where they tell anything. Nothing takes longer than ten seconds.

    Raises LogError when the log is not what it must be.
    """
    report, before = lag_watch(settings)
    if report.worth_a_second_look():
        time.sleep(_SECOND_LOOK_SECONDS)
        report, _ = lag_watch(settings, before)
    return report


def lag_watch(settings: Settings, before: GroupLook | None = None) -> tuple[LagReport, GroupLook]:
    """One look at everybody at once, and what it comes to; rates are those since `before`. Raises LogError."""
    questions: dict[str, Callable[[], LogLook | NodeProgress]] = {_LOG: partial(_log_look, settings)}
    questions.update({name: partial(_node_progress, settings, name) for name in settings.nodes})
    answers = ask_all(questions, _LAG_SECONDS)
    told = answers.pop(_LOG)
    if isinstance(told, LogError):
        raise told
    assert not isinstance(told, NodeProgress)
    nodes = {name: _told(answer) for name, answer in answers.items() if not isinstance(answer, LogLook)}
    look = GroupLook(time.monotonic(), time.time_ns() // 1000, _told(told), nodes)
    return lag_of(settings.group, settings.leader, list(settings.nodes), look, before), look


def _told(answer: Answer | CdcError) -> Answer | str:
    return str(answer) if isinstance(answer, CdcError) else answer


def _log_look(settings: Settings) -> LogLook:
    # Brokers that do not let us in are silent first: who gives up before the asker does can say why.
    with log_reader(settings, "lag", _LAG_SECONDS / 2) as reader:
        tail = reader.read_tail()
    topic = _topic(settings, _client(settings, "lag")).find()
    if tail is None or topic is None:
        raise LogError("the log is empty, or gone", "run: cdc init", f"topic {settings.topic}")
    return LogLook(tail, topic.retention_ms, tuple(topic_warnings(topic).values()))


def _node_progress(settings: Settings, name: str) -> NodeProgress:
    timeout = str(int(_LAG_SECONDS))
    with (
        translated(name),
        open_connection(settings.dsn_of(name), "cdc lag", _LAG_SECONDS, connect_timeout=timeout) as connection,
    ):
        return node_progress(connection, settings.slot, settings.topic, name)
