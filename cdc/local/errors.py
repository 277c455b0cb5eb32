"""What goes wrong with servers on this machine."""

from __future__ import annotations

from cdc.errors import CdcError


class LocalServerError(CdcError):
    """A local server could not be found, started or stopped; `log_tail` is what it said last."""

    exit_code = 3

    def __init__(self, what: str, remedy: str | None = None, where: str | None = None, *, log_tail: str = "") -> None:
        self.log_tail = log_tail
        super().__init__(what, remedy, where)

    def __str__(self) -> str:
        line = super().__str__()
        return f"{line}\nIts log ends with:\n{self.log_tail}" if self.log_tail else line
