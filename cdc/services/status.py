"""`cdc status`: who is who in the group, how far, in which state, and what operators decided."""

from __future__ import annotations

from dataclasses import dataclass

from cdc.errors import CdcError
from cdc.ports import FollowerFacts, LeaderState


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """`problem` says why nothing else is known."""

    name: str
    role: str
    state: str
    leader: LeaderState | None = None
    follower: FollowerFacts | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class GroupStatus:
    group: str
    leader: str
    epoch: int | None
    log_end: str | None
    nodes: tuple[NodeStatus, ...]
    problem: str | None
    """Why the log could not be read."""


def node_status(name: str, answer: LeaderState | FollowerFacts | CdcError, *, leads: bool) -> NodeStatus:
    role = "leader" if leads else "follower"
    if isinstance(answer, CdcError):
        return NodeStatus(name, role, "unknown", problem=str(answer))
    if isinstance(answer, LeaderState):
        state = "captured" if answer.capture else "no capture"
        if answer.leadership.closed:
            state += ", closed for writes by a promotion"
        return NodeStatus(name, role, state, leader=answer)
    if answer.leadership.epoch is not None:
        state = "closed for writes" if answer.leadership.closed else "OPEN for writes"
        told = f"led epoch {answer.leadership.epoch}, {state}: cdc rejoin --node {name}"
        return NodeStatus(name, "old leader", told, follower=answer)
    state = "blocked" if answer.blocked_since else "applying" if answer.applier else "no applier"
    if answer.diverged_since:
        state += ", diverged"
    return NodeStatus(name, role, state, follower=answer)
