"""The group that the nemesis acts on: servers, links that can be spoilt, disks that can be full, and the daemons."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
import psycopg

from cdc.local import LocalServerError, PostgresServer, find_kafka
from cdc.local.apache_kafka import ApacheKafka
from cdc.local.group import Group
from tests.soak.disks import Disk
from tests.soak.schedule import APPLY_TO_KAFKA, CAPTURE_TO_KAFKA, DAEMONS, FOLLOWERS, KAFKA, POSTGRES
from tests.soak.workloads import TABLES
from tests.support.pipeline import LEADER, run_sql
from tests.support.proxy import Proxy, before_kafka

NAME = "soak"
_DATABASE = "soak"
_SETTINGS = {
    "max_prepared_transactions": "5",
    "max_wal_size": "128MB",
    "shared_buffers": "32MB",
    "checkpoint_timeout": "30s",
    "wal_sender_timeout": "10s",  # so that a pause of some seconds more is one too long
    "autovacuum_naptime": "10s",
}
_START_SECONDS = 300.0
_INTERPRETER_SECONDS = 5.0
_STEADY_LOOKS, _LOOK_SECONDS = 4, 0.5


class Stage:
    """Everything is named as in the schedule. `dsn(NODE)` goes straight to the server, past the links."""

    def __init__(self, folder: Path, *, disks: bool, seed: int) -> None:
        self.folder = folder
        self.disks: dict[str, Disk] = {}
        self.links: dict[str, Proxy] = {}
        self.groups: dict[str, Group] = {}
        self.wanted: dict[str, bool] = dict.fromkeys(DAEMONS, False)
        """Whether a daemon is meant to run: one that does not, though it is, has ended by itself."""
        self._started_at: dict[str, float] = {}
        self._with_disks = disks
        self._seed = seed
        self._stack = ExitStack()
        self._paused: dict[str, list[psutil.Process]] = {}

    def __enter__(self) -> Self:
        try:
            self._raise_servers()
            self._raise_group()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        for target in list(self._paused):
            self.resume(target)
        self.wanted = dict.fromkeys(DAEMONS, False)
        self._stack.close()

    def _raise_servers(self) -> None:
        # A disk in memory makes fsync free. Without one it is off: what is killed here are processes, not machines.
        self.postgres = {
            name: self._stack.enter_context(PostgresServer(fsync=self._with_disks, settings=_SETTINGS))
            for name in POSTGRES
        }
        kafka = find_kafka(None)
        if not isinstance(kafka, ApacheKafka):
            kafka.close()
            raise LocalServerError("the nemesis needs an Apache Kafka of its own", "install Java and Maven")
        self.kafka = kafka
        for name in (CAPTURE_TO_KAFKA, APPLY_TO_KAFKA):
            self.links[name] = self._stack.enter_context(before_kafka(kafka, self._seed))
        self._stack.callback(kafka.close)
        if self._with_disks:
            data = kafka.log_path.with_name("data")
            data.mkdir()
            self._put_on_disk(KAFKA, data)
        self.start(KAFKA)
        for name, server in self.postgres.items():
            self.links[name] = self._stack.enter_context(Proxy(f"127.0.0.1:{server.port}", seed=self._seed))
            if self._with_disks:
                server.stop()
                self._put_on_disk(name, server.data_dir)
                server.start()

    def _put_on_disk(self, name: str, folder: Path) -> None:
        self.disks[name] = Disk(folder)
        self._stack.callback(self.disks[name].close)

    def _raise_group(self) -> None:
        for server in self.postgres.values():
            server.create_database(_DATABASE)
        run_sql(self.dsn(LEADER), *TABLES)
        nodes = {
            name: f"postgresql://postgres@{self.links[name].address}/{_DATABASE}?connect_timeout=5" for name in POSTGRES
        }
        for link, daemons in ((CAPTURE_TO_KAFKA, DAEMONS[:1]), (APPLY_TO_KAFKA, DAEMONS[1:])):
            folder = self.folder / link
            folder.mkdir()
            group = Group(folder, NAME, LEADER, nodes, self.links[link].address, kafka={"retention_hours": 24})
            self.groups |= dict.fromkeys(daemons, self._stack.enter_context(group))
        self.run("init")
        for name in FOLLOWERS:
            self.run("bootstrap", "--follower", name)
        for name in DAEMONS:
            self.start(name)

    def run(self, *arguments: str) -> str:
        done = self.groups["capture"].run(*arguments, seconds=300)
        if done.returncode != 0:
            raise LocalServerError(f"cdc {' '.join(arguments)} ended with {done.returncode}", log_tail=done.stderr)
        return done.stdout

    # looking

    def dsn(self, node: str) -> str:
        return self.postgres[node].dsn(_DATABASE)

    def mark(self) -> int:
        """An LSN of the leader after everything that is committed now. Raises psycopg.OperationalError."""
        with psycopg.connect(self.dsn(LEADER), autocommit=True, connect_timeout=5) as connection:
            row = connection.execute("SELECT pg_logical_emit_message(true, 'soak', '') - '0/0'::pg_lsn").fetchone()
        assert row is not None
        return int(row[0])

    def process(self, daemon: str) -> subprocess.Popen[bytes]:
        return self.groups[daemon].daemon(daemon)

    def ended(self) -> dict[str, int]:
        """Exit codes of the daemons that have ended by themselves."""
        codes = {name: self.process(name).poll() for name, wanted in list(self.wanted.items()) if wanted}
        return {name: code for name, code in codes.items() if code is not None and self.wanted[name]}

    def logs(self) -> dict[str, Path]:
        """Of every daemon and server."""
        daemons = {name: group.log_of(name) for name, group in self.groups.items()}
        return {
            **daemons,
            **{name: server.log_path for name, server in self.postgres.items()},
            KAFKA: self.kafka.log_path,
        }

    # acting

    def kill(self, target: str) -> None:
        if target in DAEMONS:
            self.wanted[target] = False
            self.groups[target].kill(target)
            return
        server = self._server(target)
        if server.running:
            server.kill()

    def stop(self, target: str, how: str) -> int | None:
        """In order: the exit code of a daemon, None when it had to be killed. `how` is PostgreSQL's mode."""
        if target in DAEMONS:
            self.wanted[target] = False
            return self.groups[target].stop(target)
        if target == KAFKA:
            self.kafka.stop()
        elif how == "immediate":
            self.postgres[target].stop("immediate")
        else:
            self._stop_fast(self.postgres[target])
        return 0

    def has_just_started(self, target: str) -> bool:
        """Whether a daemon was started so short a while ago that it may not have come to its own first line."""
        return time.monotonic() - self._started_at.get(target, 0.0) < _INTERPRETER_SECONDS

    def _stop_fast(self, server: PostgresServer) -> None:
        """A leader waits for a walsender that waits for a capture that cannot answer; then we do not."""
        try:
            server.stop("fast")
        except LocalServerError:
            server.stop("immediate")

    def start(self, target: str) -> None:
        """Returns when it runs; a server then also takes connections."""
        if target in DAEMONS:
            self._started_at[target] = time.monotonic()
            self.groups[target].start(*target.split())
            self.wanted[target] = True
            return
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                self._server(target).start()
                return
            except LocalServerError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)

    def ensure(self, *servers: str) -> set[str]:
        """Servers may have ended, or be about to; afterwards they stay for a while. Which had to be started."""
        deadline, steady = time.monotonic() + _START_SECONDS, 0
        started: set[str] = set()
        while steady < _STEADY_LOOKS:
            gone = {name for name in servers if not self._server(name).running}
            for name in gone:
                self.start(name)
            started |= gone
            steady = steady + 1 if not gone and self._answer(servers) else 0
            if time.monotonic() > deadline:
                raise LocalServerError(f"one of {', '.join(servers)} does not answer")
            time.sleep(_LOOK_SECONDS)
        return started

    def _answer(self, servers: Iterable[str]) -> bool:
        try:
            for name in servers:
                if name != KAFKA:
                    psycopg.connect(self.dsn(name), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def pause(self, target: str) -> None:
        """SIGSTOP of the process and its children."""
        pid = self.process(target).pid if target in DAEMONS else self._server(target).pid
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        self._paused[target] = family
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.send_signal(signal.SIGSTOP)

    def resume(self, target: str) -> None:
        for member in reversed(self._paused.pop(target, [])):
            with suppress(psutil.NoSuchProcess):
                member.send_signal(signal.SIGCONT)

    def _server(self, target: str) -> PostgresServer | ApacheKafka:
        return self.kafka if target == KAFKA else self.postgres[target]
