"""The compiled parts of the hot path (`ops/compile.py`); None where no C compiler was at the installation."""

from __future__ import annotations

try:
    from cdc.log.change_reader import ChangeReader
    from cdc.log.whole_rows import WholeRows, WholeTransactions
except ImportError:
    ChangeReader = WholeRows = WholeTransactions = None  # type: ignore[assignment, misc]

__all__ = ["HOW_ROWS_PASS", "ChangeReader", "WholeRows", "WholeTransactions"]

HOW_ROWS_PASS = "interpreted, which is slower: install where a C compiler is" if ChangeReader is None else "compiled"
"""For the log of a daemon that starts."""
