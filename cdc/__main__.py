"""The command `cdc`, also as `python -m cdc`."""

from __future__ import annotations

import os
import signal
import sys

_DAEMONS = ("capture", "apply")


def main() -> None:
    """Runs cdc.cli.main, whose imports take a while."""
    if sys.argv[1:2] and sys.argv[1] in _DAEMONS:
        # Nothing has begun yet: a stop ends a daemon as later, with 0, and not as a process that knows no signals.
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    from cdc.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
