"""The story of the demo, from servers that start to rows that are equal."""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import click
import orjson
import psycopg
from rich.console import Console

from cdc.demo import compare, shop
from cdc.demo.daemons import CAPTURE, applier_of
from cdc.demo.errors import DemoError, Interrupted, asking
from cdc.demo.failover import fail_over, settle
from cdc.demo.faults import kill_and_restart
from cdc.demo.hints import print_hints
from cdc.demo.refusal import check_leader_takes, refuses
from cdc.demo.report import Report, print_report
from cdc.demo.scene import Scene
from cdc.demo.screen import Mood, Screen, open_screen
from cdc.demo.servers import FOLLOWERS, LEADER, NODES, Servers
from cdc.demo.verdict import Findings, judge
from cdc.demo.watch import applied_up_to, wal_end
from cdc.errors import CdcError
from cdc.local.folders import OwnedFolder
from cdc.local.group import Group
from cdc.stop import StopToken

_COMMAND_SECONDS = 120.0
_LIVE_SECONDS = 60.0
_DRAIN_SECONDS = 60.0
_PLAIN_WIDTH = 120

# Shares of the time under load.
_CAPTURE_DIES_AT = 0.3
_APPLIER_DIES_AT = 0.6
_DEAD_FOR = 0.1
_DEAD_AT_MOST_SECONDS = 2.0


@dataclass(frozen=True)
class DemoOptions:
    """What the command line says. `seconds` of load are counted from when both followers are live."""

    seconds: float
    rate: float
    as_json: bool
    keep: bool
    kafka: str | None
    failover: bool = False
    """A second act: the leader's server dies."""


def run_demo(options: DemoOptions, stop: StopToken) -> Report:
    """Raises Interrupted when `stop` is set before the report is there, CdcError when the demo fails."""
    _forget_environment()
    # Of every pipeline that a dead leader cuts off it says so on stderr, in the middle of the picture.
    logging.getLogger("psycopg").setLevel(logging.ERROR)
    with ExitStack() as stack:
        screen = open_screen(as_json=options.as_json)
        stack.callback(screen.close)
        folder = stack.enter_context(OwnedFolder())
        servers = stack.enter_context(Servers(options.kafka))
        findings = Findings()
        with _timed(findings, "start"):
            servers.start(stop, screen.say)
        with _timed(findings, "seed"):
            _make_shop(servers, screen)
        group = stack.enter_context(_group(folder, servers))
        scene = Scene(servers, group, options.rate, screen, stop)
        stack.callback(scene.stop)
        outcome = _Story(options, servers, group, scene, findings).outcome()
        screen.close()
        if isinstance(outcome, Report):
            _publish(outcome, options)
        elif options.keep:
            click.echo(f"cdc: {outcome}", err=True)
        if options.keep:
            _keep(scene, group, servers, stop, to_stderr=options.as_json)
    if isinstance(outcome, CdcError):
        raise outcome
    return outcome


def _forget_environment() -> None:
    """Somebody's CDC_KAFKA__BOOTSTRAP_SERVERS or PGSSLMODE must lead neither us nor our daemons elsewhere."""
    for name in list(os.environ):
        if name.startswith(("CDC_", "PG")):
            del os.environ[name]


def _make_shop(servers: Servers, screen: Screen) -> None:
    with asking(LEADER), psycopg.connect(servers.dsn(LEADER)) as connection:
        connection.execute(shop.schema_sql().encode())
        connection.execute(shop.seed_sql().encode())
    screen.say(f"{LEADER}: the shop's tables are there, with their first rows")


def _group(folder: OwnedFolder, servers: Servers) -> Group:
    # Others may use a Kafka that was given.
    name = "shop" if servers.kafka.managed else f"demo-{secrets.token_hex(4)}"
    dsns = {name: servers.dsn(name) for name in NODES}
    group = Group(folder.path, name, LEADER, dsns, servers.kafka.bootstrap_servers)
    servers.remove_at_the_end(group.topic)
    return group


@contextmanager
def _timed(findings: Findings, name: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    findings.seconds[name] = round(time.monotonic() - started, 1)


class _Story:
    """From the first write to the verdict."""

    def __init__(self, options: DemoOptions, servers: Servers, group: Group, scene: Scene, findings: Findings) -> None:
        self._options = options
        self._servers = servers
        self._group = group
        self._scene = scene
        self._findings = findings
        self._say = scene.say

    def outcome(self) -> Report | CdcError:
        """An error is handed back, because what runs may have to be kept for a look at it."""
        try:
            return self._tell()
        except CdcError as error:
            return error
        except Interrupted:
            self._say("asked to stop, ending everything")
            raise

    def _tell(self) -> Report:
        self._scene.start_load()
        self._say(f"{LEADER}: writes begin, {self._options.rate:g} transactions a second wanted")
        with _timed(self._findings, "init and bootstrap"):
            self._make_group()
        with _timed(self._findings, "going live"):
            self._go_live()
        self._check_refusals()
        with _timed(self._findings, "under load"):
            self._under_load()
        if self._options.failover:
            with _timed(self._findings, "failover"):
                fail_over(self._scene, self._servers, self._group, self._findings, self._options.seconds)
        with _timed(self._findings, "to lag zero"):
            self._drain()
        with _timed(self._findings, "comparing"):
            report = self._compare()
        if self._options.keep:
            return report
        return replace(report, daemon_exit_codes=self._scene.daemons.stop())

    def _make_group(self) -> None:
        self._scene.begin("cdc init")
        self._run_commands(("init",))
        self._scene.begin("cdc bootstrap, while writes go on")
        self._run_commands(*(("bootstrap", name) for name in FOLLOWERS))
        for name in FOLLOWERS:
            self._scene.start_watching(name)

    def _run_commands(self, *commands: tuple[str, ...]) -> None:
        """Side by side, each to its end."""
        started = time.monotonic()
        running = {" ".join(command): self._group.start(*command) for command in commands}
        for name, process in running.items():
            if not self._scene.wait_until(lambda process=process: process.poll() is not None, _COMMAND_SECONDS):  # type: ignore[misc]
                raise DemoError(f"cdc {name} does not end within {_COMMAND_SECONDS:g} s")
            if process.returncode != 0:
                raise self._scene.daemons.failure(name, process.returncode)
            self._say(f"cdc {name} done, {time.monotonic() - started:.1f} s")

    def _go_live(self) -> None:
        """Daemons start; live is who has all that was written before they did."""
        self._scene.begin("daemons start")
        # The leader's own applier waits until its node follows.
        appliers = NODES if self._options.failover else FOLLOWERS
        for command in (CAPTURE, *map(applier_of, appliers)):
            self._scene.daemons.start(command)
        self._say(f"started: {', '.join(daemon.name for daemon in self._scene.daemons.all())}")
        written = self._scene.journal.newest
        for name in FOLLOWERS:
            if not self._scene.wait_until(self._has_seen(name, written), _LIVE_SECONDS):
                raise DemoError(f"{name} is not live {_LIVE_SECONDS:g} s after the daemons were started")
            self._say(f"{name} is live: it has caught up with what was written meanwhile", Mood.GOOD)
        self._findings.live_from = self._scene.journal.newest + 1

    def _has_seen(self, follower: str, number: int) -> Callable[[], bool]:
        sight = self._scene.sights[follower]
        return lambda: sight.newest >= number

    def _check_refusals(self) -> None:
        check_leader_takes(self._servers, LEADER)
        for name in FOLLOWERS:
            self._findings.refuses_writes[name] = refuses(self._scene, self._servers, name)

    def _under_load(self) -> None:
        total = self._options.seconds
        began = time.monotonic()
        self._scene.begin(f"under load for {total:g} s")
        self._load_until(began + total * _CAPTURE_DIES_AT)
        self._kill(CAPTURE, FOLLOWERS)
        self._load_until(began + total * _APPLIER_DIES_AT)
        self._kill(applier_of(FOLLOWERS[-1]), FOLLOWERS[-1:])
        self._load_until(began + total)

    def _load_until(self, moment: float) -> None:
        self._scene.wait(max(0.0, moment - time.monotonic()))

    def _kill(self, command: tuple[str, ...], followers: Sequence[str]) -> None:
        dead_for = min(_DEAD_AT_MOST_SECONDS, self._options.seconds * _DEAD_FOR)
        kill, disturbances = kill_and_restart(self._scene, command, followers, dead_for)
        self._findings.kills.append(kill)
        self._findings.disturbances += disturbances

    def _drain(self) -> None:
        """The load stops; every follower must get all of it."""
        leader = self._scene.leader
        self._scene.begin("no more writes, until lag is zero")
        self._scene.load.stop()
        self._say(f"{leader}: writes end after {self._scene.journal.transactions} transactions")
        with asking(leader):
            end = wal_end(self._servers.dsn(leader))
        deadline = time.monotonic() + _DRAIN_SECONDS
        for name in self._scene.followers:
            left = max(0.0, deadline - time.monotonic())
            zero = self._scene.wait_until(lambda name=name: self._has_all(name, end), left)  # type: ignore[misc]
            self._findings.lag_zero_at_end[name] = zero
            self._say(f"{name}: lag is {'zero' if zero else f'NOT zero after {_DRAIN_SECONDS:g} s'}", _mood(zero))

    def _has_all(self, follower: str, wal: int) -> bool:
        if not self._has_seen(follower, self._scene.journal.newest)():
            return False
        with asking(follower):
            return applied_up_to(self._servers.dsn(follower)) >= wal

    def _compare(self) -> Report:
        self._scene.begin("comparing all rows")
        with ThreadPoolExecutor(len(NODES)) as pool:
            pending = {name: pool.submit(compare.digests, self._servers.dsn(name)) for name in NODES}
            self._scene.wait_until(lambda: all(future.done() for future in pending.values()), _COMMAND_SECONDS)
            nodes = {}
            for name, future in pending.items():
                with asking(name):
                    nodes[name] = future.result()
        self._scene.stop()
        settle(self._scene, self._servers, self._findings)
        report = judge(self._scene, self._servers, self._options.rate, self._findings, nodes)
        self._say(f"compared {report.rows} rows of {len(report.tables)} tables on {len(NODES)} nodes")
        return report


def _mood(good: bool) -> Mood:
    return Mood.GOOD if good else Mood.BAD


def _publish(report: Report, options: DemoOptions) -> None:
    if options.as_json:
        click.echo(orjson.dumps(report.as_json(), option=orjson.OPT_INDENT_2))
    else:
        console = Console()
        print_report(console if console.is_terminal else Console(width=_PLAIN_WIDTH), report)


def _keep(scene: Scene, group: Group, servers: Servers, stop: StopToken, *, to_stderr: bool) -> None:
    """Until somebody ends it. What they write to the leader goes on to the followers."""
    print_hints(group, servers, scene.leader, to_stderr=to_stderr)
    told: set[str] = set()
    while not stop.wait(1.0):
        for daemon in scene.daemons.all():
            if not daemon.running and daemon.name not in told:
                told.add(daemon.name)
                click.echo(f"cdc {daemon.name} ended; its log is {group.log_of(daemon.name)}", err=True)
