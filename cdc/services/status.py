"""`cdc status`: who is who in the group, how far, in which state, and what operators decided."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from cdc.errors import CdcError
from cdc.ports import FollowerFacts, LeaderState

Answer = TypeVar("Answer")


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


def ask_all(questions: Mapping[str, Callable[[], Answer]], seconds: float) -> dict[str, Answer | str]:
    """All at once; whoever has not answered after `seconds`, or cannot, has a text instead that says so."""
    answers: dict[str, Answer | str] = {}

    def ask(name: str, question: Callable[[], Answer]) -> None:
        try:
            answers[name] = question()
        except CdcError as error:
            answers[name] = str(error)

    threads = [threading.Thread(target=ask, args=item, daemon=True) for item in questions.items()]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return {name: answers.get(name, f"{name}: no answer in {seconds:.0f} s") for name in questions}


def node_status(name: str, answer: LeaderState | FollowerFacts | str, *, leads: bool) -> NodeStatus:
    """`answer` is a text when there is none."""
    role = "leader" if leads else "follower"
    if isinstance(answer, str):
        return NodeStatus(name, role, "unknown", problem=answer)
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
