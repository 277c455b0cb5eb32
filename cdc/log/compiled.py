"""The compiled parts of the hot path (`ops/compile.py`); None where no C compiler was at the installation."""

from __future__ import annotations

try:
    from cdc.log.run_lines import RunLines
    from cdc.log.whole_rows import WholeRows
except ImportError:
    RunLines = WholeRows = None  # type: ignore[assignment, misc]

__all__ = ["HOW_ROWS_PASS", "RunLines", "WholeRows"]

HOW_ROWS_PASS = "interpreted, which is slower: install where a C compiler is" if RunLines is None else "compiled"
"""For the log of a daemon that starts."""
