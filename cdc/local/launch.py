"""Runs as a script between us and a server: change the user, tie its life to ours, become it.

    python -I -S launch.py PARENT_PID DEATH_SIGNAL UID:GID|- COMMAND [ARGUMENT...]

A script and not a `preexec_fn`, because Python code between fork and exec may deadlock in a process
with threads. Needs the standard library alone: it runs without site-packages.
"""

from __future__ import annotations

import ctypes
import os
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, death_signal, account, *command = sys.argv[1:]
    try:
        if account != "-":
            _become(*(int(part) for part in account.split(":")))
        # After the change of the user, which would clear it; it outlives the exec.
        _die_with_parent(int(parent), int(death_signal))
        os.execvp(command[0], command)  # noqa: S606 - no shell is wanted
    except OSError as error:
        sys.stderr.write(f"cannot run {command[0]}: {error.strerror}\n")
        sys.exit(127)


def _become(uid: int, gid: int) -> None:
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)


def _die_with_parent(parent: int, death_signal: int) -> None:
    """Linux only; elsewhere a SIGKILL of the parent leaves its servers running."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, death_signal, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:  # it died before the line above
        sys.exit(1)


if __name__ == "__main__":
    main()
