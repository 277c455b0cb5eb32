"""Shared memory that a killed PostgreSQL leaves behind in the kernel.

A server that starts again on the same data removes what its predecessor left; one that was killed
for good cannot, so what it had is noted before the kill and removed with its folder. Linux only.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

_SYSTEM_V = re.compile(r"\S+ \S+ \S+ \S+ (?P<id>\d+) +/SYSV[0-9a-f]+", re.ASCII)
_POSIX = re.compile(r"(?P<path>/dev/shm/PostgreSQL\.\d+)", re.ASCII)


class SharedMemory(NamedTuple):
    """What some processes have attached."""

    system_v_ids: frozenset[int]
    posix_files: frozenset[Path]


NONE = SharedMemory(frozenset(), frozenset())


def attached_by(pids: Iterable[int]) -> SharedMemory:
    """The PostgreSQL segments that these processes have attached now; dead ones have none."""
    maps = "".join(_maps(pid) for pid in pids)
    return SharedMemory(
        frozenset(int(found["id"]) for found in _SYSTEM_V.finditer(maps)),
        frozenset(Path(found["path"]) for found in _POSIX.finditer(maps)),
    )


def remove(memory: SharedMemory) -> None:
    """Remove segments; those that are gone already are no error."""
    for file in memory.posix_files:
        file.unlink(missing_ok=True)
    ipcrm = shutil.which("ipcrm")
    for segment in memory.system_v_ids:
        if ipcrm:
            subprocess.run([ipcrm, "-m", str(segment)], check=False, capture_output=True)


def _maps(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/maps").read_text()
    return ""
