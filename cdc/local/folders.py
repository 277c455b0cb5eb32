"""Temporary folders that are removed at the end, or, after a SIGKILL, by the next start.

Each folder holds a lock file that its owner keeps locked (flock) for as long as it lives; the
kernel drops the lock with the process. A folder whose lock can be taken has no owner any more.
A folder gets its name only when it is locked, so nobody ever sees an unlocked one that is in use.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

_PREFIX = "cdc-local-"
_UNNAMED_PREFIX = ".cdc-local-new-"
_LOCK_FILE = "owner.lock"
# A server that is just dying still writes files while its folder is removed.
_REMOVE_ATTEMPTS = 20
_REMOVE_PAUSE_SECONDS = 0.1


class OwnedFolder:
    """A temporary folder of this process. Other users may pass through it, not list it."""

    def __init__(self) -> None:
        remove_abandoned_folders()
        unnamed = Path(tempfile.mkdtemp(prefix=_UNNAMED_PREFIX))
        self._lock = os.open(unnamed / _LOCK_FILE, os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        unnamed.chmod(0o711)
        self.path = unnamed.with_name(_PREFIX + unnamed.name.removeprefix(_UNNAMED_PREFIX))
        unnamed.rename(self.path)

    def remove(self) -> None:
        """Remove the folder and all in it. May be called twice."""
        _remove_tree(self.path)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


def remove_abandoned_folders() -> None:
    """Remove what runs of this user left behind that were killed. Never fails, never waits long."""
    for folder in Path(tempfile.gettempdir()).glob(_PREFIX + "*"):
        if _is_abandoned(folder):
            _remove_tree(folder, attempts=1)


def _is_abandoned(folder: Path) -> bool:
    try:
        status = folder.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            return False
        lock = os.open(folder / _LOCK_FILE, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        return folder.is_dir()  # a removal that was itself interrupted
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(lock)
    return True


def _remove_tree(folder: Path, attempts: int = _REMOVE_ATTEMPTS) -> None:
    for attempt in range(attempts):
        if attempt:
            time.sleep(_REMOVE_PAUSE_SECONDS)
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
