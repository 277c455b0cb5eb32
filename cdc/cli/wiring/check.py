"""`cdc check`: who is asked, and for how long."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from cdc.check_ports import FollowerNode, KafkaFacts, LaterLook, NodeReading
from cdc.cli.wiring.group import client_settings, depth, leader_of, log_reader, tail_of, topic_of
from cdc.config import Settings
from cdc.errors import BlockedError, CdcError, CheckError
from cdc.services.ask import ask_all
from cdc.services.checks.check import Group, Wanted, group_of, leader_by_own_account
from cdc.services.checks.report import CheckReport, check_group
from connectors.kafka.preflight import read_kafka
from connectors.postgres.connection import connect
from connectors.postgres.leader import Leader
from connectors.postgres.preflight import misplaced, read_node
from connectors.postgres.programs import ClientPrograms

CHECK_SECONDS = 5.0
"""`cdc check` answers in ten: it asks everybody at once, and then, half as long, followers about the leader's tables.
The rest is for starting Python."""


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
    places = {name: told for name, told in again.items() if not isinstance(told, LaterLook)}
    return check_group(replace(group, later=end, misplaced=places, programs=_programs(group)))


def _programs(group: Group) -> CheckError | None:
    """Why a first copy could not be made from here."""
    if isinstance(group.leader, CdcError) or not group.copies_are_due:
        return None
    try:
        ClientPrograms(group.leader.node.server.version // 10000)
    except CheckError as error:
        return error
    return None


def _read_kafka(settings: Settings) -> KafkaFacts:
    with log_reader(settings, "check") as reader:
        return read_kafka(topic_of(settings, client_settings(settings, "check")), reader, depth(settings))


def _read_node(settings: Settings, name: str) -> NodeReading:
    with connect(settings.dsn_of(name), "cdc check", name, answer_seconds=CHECK_SECONDS) as connection:
        return read_node(connection, settings.group, settings.slot, settings.topic, name)


def _as_node(told: KafkaFacts | NodeReading | CdcError) -> NodeReading | CdcError:
    assert not isinstance(told, KafkaFacts)
    return told


def _look_again(settings: Settings, leader: str) -> LaterLook:
    tail = tail_of(settings, "check")
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
