"""What servers at hand cannot show: versions that lose changes, clocks, brokers that are away."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cdc.capture_ports import LeaderFacts, LeaderLook, Publication, PublishedTable, SlotFacts, SystemFacts, TopicFacts
from cdc.check_ports import (
    ApplierRights,
    CollationFacts,
    FollowerNode,
    KafkaFacts,
    LeaderNode,
    NodeFacts,
    NodeReading,
    NodeTable,
)
from cdc.errors import CdcError, RetryableError
from cdc.events.table import TableId
from cdc.ports import Leadership
from cdc.protocol.lsn import Lsn
from cdc.services.checks.check import Group, Status, Wanted, leader_by_own_account
from cdc.services.checks.report import check_group

SERVER = LeaderFacts("shop", 180006, "logical", False, 5, 5, True, True, "UTF8", "cdc")
NODE = NodeFacts(
    "us-east", SERVER, SystemFacts("7", 1, Lsn(0)), ("7", 1), "18.6", 0.0, 0.01,
    {"max_replication_slots": "10", "max_wal_senders": "10", "max_slot_wal_keep_size": "10GB",
     "wal_sender_timeout": "1min"}, {}, {}, frozenset(),
    frozenset(), {}, CollationFacts("C / C", "c", None, ()), {"Europe/Paris": "1 2"}, 0, Leadership(None, False, None),
)  # fmt: skip
SLOT = SlotFacts("pgoutput", "shop", False, 17, "cdc capture", Lsn(1), Lsn(1), "reserved", None)
LEADER = LeaderNode(NODE, None, LeaderLook(None, None, None, None, frozenset()), (), 2**30)
FOLLOWER = FollowerNode(
    replace(NODE, name="eu-west", database_id=("8", 1), system=SystemFacts("8", 1, Lsn(0))),
    ApplierRights(True, True, True, True, True, 5), "none", None, None, 0, frozenset(),
)  # fmt: skip
TOPIC = TopicFacts("id", 1, "delete", 10**6, -1, min_insync_replicas=2, replicas=3, in_sync=3)
GROUP = Group(
    Wanted("shop", "shop.log", "cdc_shop", ["public.*"], 10**6), "us-east", KafkaFacts(TOPIC, 3), LEADER,
    {"eu-west": FOLLOWER},
)  # fmt: skip


def problems(group: Group) -> dict[str, Status]:
    return {line.id: line.status for line in check_group(group).lines if line.status is not Status.OK}


def new_problems(group: Group) -> dict[str, Status]:
    usual = problems(GROUP)
    return {id: status for id, status in problems(group).items() if id not in usual}


def with_server(node: NodeFacts, **changes: object) -> NodeFacts:
    return replace(node, server=replace(node.server, **changes))  # type: ignore[arg-type]


def leading(node: NodeFacts) -> Group:
    return replace(GROUP, leader=replace(LEADER, node=node))


def following(node: NodeFacts) -> Group:
    return replace(GROUP, followers={"eu-west": replace(FOLLOWER, node=node)})


@pytest.mark.parametrize(
    ("version", "status"),
    [
        (130022, Status.FAILED),
        (140017, Status.WARNING),
        (140018, None),
        (150012, Status.WARNING),
        (160008, Status.WARNING),
        (170004, Status.WARNING),
        (170005, None),
        (180000, None),
        (190000, Status.WARNING),
    ],
)
def test_versions(version: int, status: Status | None):
    expected = {} if status is None else {"leader.version": status}
    newer = {"between.version": Status.WARNING} if version >= 190000 else {}
    assert new_problems(leading(with_server(NODE, version=version))) == expected | newer
    found = problems(following(with_server(FOLLOWER.node, version=version)))
    assert found.get("follower.version") == status


def test_a_standby_neither_leads_nor_follows():
    assert new_problems(leading(with_server(NODE, in_recovery=True))) == {"leader.primary": Status.FAILED}
    assert new_problems(following(with_server(FOLLOWER.node, in_recovery=True))) == {"follower.primary": Status.FAILED}


@pytest.mark.parametrize(
    ("change", "id"), [({"free_slots": 0}, "leader.slots"), ({"free_wal_senders": 0}, "leader.wal_senders")]
)
def test_capture_needs_what_is_used_up_and_is_one_of_those_who_use_it(change: dict[str, int], id: str):
    node = with_server(NODE, **change)
    assert new_problems(leading(node)) == {id: Status.FAILED}
    working = replace(LEADER, node=node, look=replace(LEADER.look, slot=SLOT))
    assert problems(replace(GROUP, leader=working))[id] == Status.WARNING


def test_a_slot_that_is_nearly_lost():
    near = replace(SLOT, wal_status="unreserved")
    found = problems(replace(GROUP, leader=replace(LEADER, look=replace(LEADER.look, slot=near))))
    assert found["leader.slot_wal"] == Status.WARNING


@pytest.mark.parametrize(
    ("ahead", "error", "apart"), [(3600.0, 0.1, True), (-3.0, 0.1, True), (3.0, 2.0, False), (1.0, 0.0, False)]
)
def test_clocks_are_apart_by_more_than_is_not_known(ahead: float, error: float, apart: bool):
    node = replace(FOLLOWER.node, clock_ahead=ahead, clock_error=error)
    assert new_problems(following(node)) == ({"between.clocks": Status.WARNING} if apart else {})


@pytest.mark.parametrize("zones", [{"Europe/Paris": "1 3"}, {}], ids=["other", "missing"])
def test_time_zones(zones: dict[str, str]):
    assert new_problems(following(replace(FOLLOWER.node, time_zones=zones))) == {"between.time_zones": Status.WARNING}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"in_sync": 2}, {"kafka.replicas": Status.WARNING}),
        ({"in_sync": 1}, {"kafka.replicas": Status.WARNING, "kafka.min_insync_replicas": Status.FAILED}),
        ({"min_insync_replicas": 3}, {"kafka.min_insync_replicas": Status.WARNING}),
        ({"min_insync_replicas": 1}, {"kafka.min_insync_replicas": Status.WARNING}),
        ({"replicas": 1, "in_sync": 1, "min_insync_replicas": 1},
         {"kafka.replicas": Status.WARNING, "kafka.min_insync_replicas": Status.WARNING}),
    ],
)  # fmt: skip
def test_replicas_of_the_log(changes: dict[str, int], expected: dict[str, Status]):
    topic = replace(TOPIC, **changes)  # type: ignore[arg-type]
    assert new_problems(replace(GROUP, kafka=KafkaFacts(topic, 3))) == expected


def test_a_schema_that_is_there_already_can_be_taken_and_other_tables_cannot():
    name = TableId("public", "t")
    table = NodeTable(name, {}, (), (), (), False, "cdc", True, True, True, True, False, True, False)
    leader = replace(LEADER, node=replace(NODE, tables={name: table}))
    made = replace(FOLLOWER, node=replace(FOLLOWER.node, tables={name: table}), foreign_objects=1)
    foreign = replace(FOLLOWER, foreign_objects=1)
    for follower, status in ((made, Status.WARNING), (foreign, Status.FAILED)):
        group = replace(GROUP, leader=leader, followers={"eu-west": follower})
        assert new_problems(group) == {"follower.state": status}


def test_a_publication_that_leaves_out_rows_or_columns():
    table = PublishedTable(TableId("public", "t"), 1, None, "(id > 5)")
    look = replace(LEADER.look, published=Publication({1: table}, {}))
    found = problems(replace(GROUP, leader=replace(LEADER, look=look)))
    assert found["leader.publication"] == Status.FAILED


def test_an_extension_that_cannot_be_had():
    node = replace(NODE, extensions=frozenset({"postgis"}))
    assert new_problems(leading(node)) == {"between.extensions": Status.FAILED}


def test_without_the_log_the_newest_leader_that_is_open_leads():
    def node(epoch: int | None, closed: bool = False) -> NodeReading:
        facts = replace(NODE, leadership=Leadership(epoch, closed, None))
        return NodeReading(replace(LEADER, node=facts), replace(FOLLOWER, node=facts))

    nodes: dict[str, NodeReading | CdcError] = {
        "a": node(1),
        "b": node(2),
        "c": node(3, closed=True),
        "d": node(None),
        "e": RetryableError("silent"),
    }
    assert leader_by_own_account(nodes) == "b"
    assert leader_by_own_account({"d": node(None)}) is None


def test_who_cannot_be_reached_is_one_line_and_the_rest_is_shown():
    silent = RetryableError("no answer in 5 s", "see that it runs", "x")
    without_leader = replace(GROUP, leader=silent)
    assert new_problems(without_leader) == {"leader.reached": Status.FAILED}
    lines = check_group(without_leader).lines
    assert {line.place for line in lines} == {"us-east", "eu-west", "shop.log"}
    assert new_problems(replace(GROUP, kafka=silent)) == {"kafka.reached": Status.FAILED}
    assert new_problems(replace(GROUP, followers={"eu-west": silent})) == {"follower.reached": Status.FAILED}
