"""The POSIX shared memory of all PostgreSQL servers of this machine, also of those that left it behind."""

from __future__ import annotations

from pathlib import Path


def posix_files() -> set[Path]:
    return set(Path("/dev/shm").glob("PostgreSQL.*"))  # noqa: S108 - PostgreSQL's choice
