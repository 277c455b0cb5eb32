"""All that goes on during a run - load, daemons, watches - and the passing of time in it."""

from __future__ import annotations

import time
from collections.abc import Callable

from cdc.demo.background import Background
from cdc.demo.daemons import Daemon, Daemons
from cdc.demo.errors import Interrupted
from cdc.demo.load import Journal, Load
from cdc.demo.screen import DaemonView, FollowerView, Mood, Screen, View
from cdc.demo.servers import LEADER, NODES, Servers
from cdc.demo.watch import Auditor, LeaderWatch, Sight
from cdc.local.group import Group
from cdc.stop import StopToken

_TICK_SECONDS = 0.1


class Scene:
    """`wait_until` is how the story waits: meanwhile the picture is drawn, and what fails is raised."""

    def __init__(self, servers: Servers, group: Group, rate: float, screen: Screen, stop: StopToken) -> None:
        self._phase, self._phase_began = "", time.monotonic()
        self._servers = servers
        self.leader = LEADER
        """Who leads; while nobody does, who did last."""
        self._leaderless_since: float | None = None
        self._down: set[str] = set()
        self.journal = Journal()
        self.load = Load(servers.clients_dsn, rate, self.journal)
        self.daemons = Daemons(group)
        self.leader_watch = LeaderWatch(self._leader_dsn, self.journal)
        self.sights: dict[str, Sight] = {}
        self.auditors: dict[str, Auditor] = {}
        self._screen = screen
        self._stop = stop

    def _leader_dsn(self) -> str:
        return self._servers.dsn(self.leader)

    @property
    def followers(self) -> tuple[str, ...]:
        return tuple(name for name in NODES if name != self.leader)

    def start_load(self) -> None:
        self.leader_watch.thread.start()
        self.load.start()

    def start_watching(self, follower: str) -> None:
        """From when it has tables."""
        dsn = self._servers.dsn(follower)
        self.sights[follower] = Sight(follower, dsn, self.journal)
        self.auditors[follower] = Auditor(follower, dsn, self._leader_dsn)
        self.sights[follower].thread.start()
        self.auditors[follower].thread.start()

    def leader_is_gone(self) -> None:
        """Its server is dead."""
        self._down.add(self.leader)
        self._leaderless_since = time.monotonic()

    def is_back(self, node: str) -> None:
        self._down.discard(node)

    def leads(self, node: str) -> None:
        """It takes writes, so it is no follower any more."""
        self.leader, self._leaderless_since = node, None
        self.sights[node].thread.stop()
        self.auditors[node].thread.stop()

    def stop(self) -> None:
        """Load and watches, not the daemons. May be called twice."""
        self.load.stop()
        for thread in self._threads():
            thread.stop()

    def begin(self, phase: str) -> None:
        """What the picture is headed with from now on."""
        self._phase, self._phase_began = phase, time.monotonic()

    def say(self, text: str, mood: Mood = Mood.PLAIN) -> None:
        self._screen.say(text, mood)

    def wait_until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """False when `condition` does not hold within `seconds`. Raises Interrupted when asked to stop,
        and whatever failed meanwhile: a daemon that ended, a writer, a watch."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                return False
            self._tick()
        return True

    def wait(self, seconds: float) -> None:
        self.wait_until(lambda: False, seconds)

    def _tick(self) -> None:
        if self._stop.wait(_TICK_SECONDS):
            raise Interrupted
        self.load.check()
        for thread in self._threads():
            thread.check()
        self.daemons.check()
        self._screen.show(self._view())

    def _threads(self) -> list[Background]:
        sights = [sight.thread for sight in self.sights.values()]
        return [self.leader_watch.thread, *sights, *(auditor.thread for auditor in self.auditors.values())]

    def _view(self) -> View:
        since = self._leaderless_since
        dead = self.leader if since is not None else None
        return View(
            phase=self._phase,
            phase_seconds=time.monotonic() - self._phase_began,
            leader=self.leader,
            leaderless_seconds=None if since is None else time.monotonic() - since,
            transactions=self.journal.transactions,
            transactions_per_second=self.leader_watch.transactions.per_second,
            rows_per_second=self.leader_watch.rows.per_second,
            followers=[self._follower_view(name) for name in NODES if name in (*self.followers, dead)],
            daemons=[_daemon_view(daemon) for daemon in self.daemons.all()],
        )

    def _follower_view(self, name: str) -> FollowerView:
        sight, auditor = self.sights.get(name), self.auditors.get(name)
        if name in self._down or sight is None or auditor is None:
            return FollowerView(name, "is dead" if name in self._down else "not yet")
        latest = auditor.latest
        return FollowerView(
            name=name,
            missing=None if latest else "not yet",
            rows_per_second=auditor.rows.per_second,
            newest=sight.newest,
            lag_ms=sight.lag_seconds_now() * 1000,
            pending_bytes=latest.pending_bytes if latest else None,
            bank_total=latest.bank_total if latest else 0,
            snapshots=auditor.snapshots,
            passed=auditor.passed,
        )


def _daemon_view(daemon: Daemon) -> DaemonView:
    seconds = time.monotonic() - daemon.since
    return DaemonView(daemon.name, daemon.running, daemon.killed, seconds, daemon.starts)
