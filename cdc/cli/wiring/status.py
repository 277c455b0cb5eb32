"""`cdc status`: who is asked, and for how long."""

from __future__ import annotations

from collections.abc import Callable

from cdc.cli.wiring.group import THE_LOG, leader_of, log_end
from cdc.config import Settings
from cdc.errors import CdcError
from cdc.ports import FollowerFacts, LeaderState
from cdc.services.ask import ask_all
from cdc.services.status import GroupStatus, node_status
from connectors.postgres.connection import connect
from connectors.postgres.node_status import follower_facts, leader_state

STATUS_SECONDS = 8.0
"""`cdc status` answers in ten; the rest is for starting Python."""


def group_status(settings: Settings) -> GroupStatus:
    """What `cdc status` shows; who cannot be reached says why, and nothing takes longer than ten seconds."""
    (end,) = ask_all({THE_LOG: lambda: log_end(settings, "status")}, STATUS_SECONDS / 2).values()
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
