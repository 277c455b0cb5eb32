"""File systems of limited size under the data of servers, so that a disk can be full.

They are mounted where only this process and its children see them, and go with them. That takes root; a machine
that does not permit it has no full disks.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

_SIZE = "4g"
_FILL_ATTEMPTS = 50
_CLONE_NEWNS = 0x20000
_MS_REC, _MS_PRIVATE = 0x4000, 1 << 18


def own_mounts() -> bool:
    """From now on nobody else sees what this process mounts. Call it before there are threads. False: cannot mount."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    failed: int = libc.unshare(_CLONE_NEWNS) or libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None)
    return not failed


class Disk:
    """Put under a folder with what is in it, while nobody uses it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        before = folder.stat()
        aside = folder.with_name(folder.name + ".aside")
        folder.rename(aside)
        folder.mkdir()
        _run("mount", "-t", "tmpfs", "-o", f"size={_SIZE},mode=0700", "none", folder)
        os.chown(folder, before.st_uid, before.st_gid)
        _run("cp", "--archive", f"{aside}/.", folder)
        shutil.rmtree(aside)

    def fill(self) -> None:
        """No byte more, from now on."""
        for _ in range(_FILL_ATTEMPTS):
            used = os.statvfs(self._folder)
            with suppress(subprocess.CalledProcessError):  # more was written meanwhile
                _run("mount", "-o", f"remount,size={(used.f_blocks - used.f_bfree) * used.f_frsize}", self._folder)
                return
        raise OSError(f"{self._folder} cannot be made full")

    def free(self) -> None:
        _run("mount", "-o", f"remount,size={_SIZE}", self._folder)

    def close(self) -> None:
        _run("umount", "--lazy", self._folder)


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=60)
