"""kill -9, and how long until it is as if nothing had been."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from cdc.demo.errors import DemoError
from cdc.demo.report import Kill
from cdc.demo.scene import Scene
from cdc.demo.screen import Mood
from cdc.demo.watch import Sight

_RECOVERY_SECONDS = 60.0


@dataclass(frozen=True)
class Disturbance:
    """From the kill until all that it held up was visible."""

    follower: str
    killed_at: float
    caught_up_at: float

    def held_up(self, committed_at: float, seen_at: float) -> bool:
        return committed_at <= self.caught_up_at and seen_at >= self.killed_at


def kill_and_restart(
    scene: Scene, command: tuple[str, ...], followers: Sequence[str], dead_for: float
) -> tuple[Kill, list[Disturbance]]:
    """SIGKILL, a while of nothing, a new start; returns when `followers` have caught up. Raises DemoError when not."""
    name = " ".join(command)
    sights = {follower: scene.sights[follower] for follower in followers}
    into_load = scene.load.seconds
    killed_at = time.monotonic()
    scene.daemons.kill(command)
    scene.say(f"kill -9 {name} at transaction {scene.journal.newest}", Mood.BAD)
    scene.wait(dead_for)
    visible = {follower: sight.newest for follower, sight in sights.items()}
    restarted_at = scene.daemons.start(command).since
    scene.say(f"{name} started again; the leader is at transaction {scene.journal.newest}")
    for follower, sight in sights.items():
        wait_for_number(scene, sight, visible[follower] + 1, f"{name} does not come back: {follower} stays behind")
    recovered_at = max(when_seen(sight, visible[follower] + 1) for follower, sight in sights.items())
    backlog_end = scene.journal.newest
    for follower, sight in sights.items():
        wait_for_number(scene, sight, backlog_end, f"{follower} does not catch up after {name} came back")
    caught_up = {follower: when_seen(sight, backlog_end) for follower, sight in sights.items()}
    kill = Kill(
        daemon=name,
        at_seconds=round(into_load, 1),
        down_seconds=round(restarted_at - killed_at, 2),
        recovery_seconds=round(recovered_at - restarted_at, 2),
        caught_up_seconds=round(max(caught_up.values()) - restarted_at, 2),
    )
    scene.say(
        f"{name} is back: first new transaction after {kill.recovery_seconds:.1f} s, "
        f"backlog gone after {kill.caught_up_seconds:.1f} s",
        Mood.GOOD,
    )
    return kill, [Disturbance(follower, killed_at, at) for follower, at in caught_up.items()]


def wait_for_number(scene: Scene, sight: Sight, number: int, complaint: str) -> None:
    """Until a follower shows that transaction. Raises DemoError when it does not."""
    if not scene.wait_until(lambda: sight.newest >= number, _RECOVERY_SECONDS):
        raise DemoError(f"{complaint} (waited for {_RECOVERY_SECONDS:g} s)")


def when_seen(sight: Sight, number: int) -> float:
    """When a follower showed it first; now, if nobody can tell."""
    at = sight.seen_at(number)
    return time.monotonic() if at is None else at
