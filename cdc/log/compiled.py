"""The compiled parts of the hot path (`ops/compile.py`); None where no C compiler was at the installation.

Sources that went on since, as by `git pull`, count: what is older is not used. An installation has no sources of them.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["HOW_ROWS_PASS", "ChangeReader", "WholeRows", "WholeTransactions", "is_newest"]


def is_newest(module: str) -> bool:
    """Whether no source in the folder of a compiled module is newer. All of a folder are made together."""
    folder = Path(module).parent
    made_at = Path(module).stat().st_mtime
    return all(source.stat().st_mtime <= made_at for source in (*folder.glob("*.pyx"), *folder.glob("*.pxd")))


try:
    from cdc.log import change_reader
    from cdc.log.change_reader import ChangeReader
    from cdc.log.whole_rows import WholeRows, WholeTransactions

    _remedy = (
        "" if is_newest(change_reader.__file__) else "run ops/compile.py, the sources are newer than what is compiled"
    )
except ImportError:
    _remedy = "install where a C compiler is"
if _remedy:
    ChangeReader = WholeRows = WholeTransactions = None  # type: ignore[assignment, misc]

HOW_ROWS_PASS = f"interpreted, which is slower: {_remedy}" if _remedy else "compiled"
"""For the log of a daemon that starts."""
