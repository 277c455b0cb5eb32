"""A limit of memory as containers set it: whoever goes past it is killed by the kernel."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from cdc.local.processes import wait_for

_HIERARCHIES = (
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),  # version 1
    (Path("/sys/fs/cgroup"), "memory.max"),  # version 2
)


@contextmanager
def memory_limit(pid: int, megabytes: int) -> Iterator[None]:
    """The process may take so much more than it has: what it holds already stays counted where it was.

    Skips the test where cgroups cannot be made.
    """
    for hierarchy, limit in _HIERARCHIES:
        group = hierarchy / f"cdc-test-{os.getpid()}"
        if not (hierarchy / "cgroup.procs").exists():
            continue
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            if (group / limit).exists():
                (group / limit).write_text(str(megabytes * 2**20))
                (group / "cgroup.procs").write_text(str(pid))
                yield
                return
        finally:
            for member in (group / "cgroup.procs").read_text().split():  # of a test that failed
                with suppress(OSError):
                    (hierarchy / "cgroup.procs").write_text(member)
            assert wait_for(lambda: not (group / "cgroup.procs").read_text(), seconds=10), "somebody is still in it"  # noqa: B023
            group.rmdir()
    pytest.skip("no cgroup with a limit of memory can be made here")
