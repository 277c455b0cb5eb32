"""A file system with a size of its own, to be filled and freed."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class SmallDisk:
    folder: Path

    def fill(self, leave: int = 0) -> None:
        """A file takes what is free, but for `leave` bytes. Where none are to be left, a server that writes at the same
        time may take some of it."""
        state = os.statvfs(self.folder)
        try:
            self._filler.write_bytes(bytes(max(0, state.f_bavail * state.f_bsize - leave)))
        except OSError as error:
            if leave or error.errno != errno.ENOSPC:
                raise

    def free(self) -> None:
        """What `fill` took."""
        self._filler.unlink()

    def give_to_owner_of(self, other: Path) -> None:
        """Everything that is on it now."""
        owner = other.stat()
        for path in (self.folder, *self.folder.rglob("*")):
            os.chown(path, owner.st_uid, owner.st_gid)

    @property
    def _filler(self) -> Path:
        return self.folder / "filler"


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[SmallDisk]:
    """In memory, of `size` bytes, at `folder`, which is made and removed. Skips where nothing can be mounted."""
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if os.geteuid() != 0 or not mount or not umount:
        pytest.skip("only root can mount a small file system")
    folder.mkdir()
    try:
        mounted = subprocess.run(
            [mount, "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True, text=True
        )
        if mounted.returncode != 0:
            pytest.skip(f"this machine cannot mount a tmpfs: {mounted.stderr.strip()}")
        try:
            folder.chmod(0o700)
            yield SmallDisk(folder)
        finally:
            subprocess.run([umount, "-l", folder], check=True)
    finally:
        folder.rmdir()
