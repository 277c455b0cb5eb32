"""Everything that can go wrong, as one tree.

    CdcError                     exit code 1 unless a subclass says otherwise
    |-- ConfigError         2    usage or configuration: nothing was started
    |-- CheckError          3    a requirement is not met: nothing was changed
    |   `-- RefusedError         a server does not let us in; a daemon that was in before waits to be let in again
    |-- TerminalError       4    replication must not go on until somebody acts
    |   |-- SlotError            the slot is missing, lost, in use, or not the one we know
    |   |-- PublicationError     what is published is not what cdc init left there
    |   |-- LogError             the log lost records, was replaced, or holds a foreign record
    |   |-- ChainGapError        transactions are missing between two records
    |   |-- FencedError          somebody else holds this role, or a newer epoch exists
    |   |-- DivergenceError      the follower's rows are not the leader's
    |   `-- ProtocolError        bytes of the replication stream that are not what the protocol says
    `-- RetryableError      3    expected to pass: a lost connection, a deadlock, a server that starts
        `-- BlockedError         passes once somebody acts; a daemon waits, and says so again and again

Every error is one line for people: what happened, where, and what to do. Values of rows and
passwords never go into any of the three.
"""

from __future__ import annotations

NEW_GROUP = "start a new group under another name and bootstrap the followers (ops/runbooks/new-group.md)"
"""What is to be done where the log cannot go on."""


class CdcError(Exception):
    """One line for an operator: `what` happened, `where`, and the `remedy`."""

    exit_code = 1

    def __init__(self, what: str, remedy: str | None = None, where: str | None = None) -> None:
        self.what = _one_line(what)
        self.remedy = _one_line(remedy) if remedy else None
        self.where = _one_line(where) if where else None
        super().__init__(str(self))

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}. To do: {self.remedy}" if self.remedy else text


class ConfigError(CdcError):
    """The configuration or the command line cannot be used."""

    exit_code = 2


class CheckError(CdcError):
    """A requirement is not met; nothing was created or changed."""

    exit_code = 3


class RefusedError(CheckError):
    """A server refuses login or permission. At a start that is an error; later, credentials are being changed."""


class TerminalError(CdcError):
    """Going on would lose or double rows; only an operator can decide."""

    exit_code = 4


class SlotError(TerminalError):
    """The replication slot is missing, invalidated, in use, or not the one that the log knows."""


class PublicationError(TerminalError):
    """The publication is missing, or publishes less than it did."""


class LogError(TerminalError):
    """The log is missing, was replaced or cut, or holds a record that is not ours."""


class ChainGapError(LogError):
    """A link of the chain is missing: transactions between two LSNs are not in the log."""


class FencedError(TerminalError):
    """Another process holds this role, or the log has moved on to a newer epoch."""


class DivergenceError(TerminalError):
    """The follower's rows differ from what the change event needs.

    `key` holds values of the row's key, and is part of no text unless the operator asks for it (`showing_key`).
    """

    def __init__(self, what: str, remedy: str | None = None, where: str | None = None, *, key: str = "") -> None:
        super().__init__(what, remedy, where)
        self.key = key

    def showing_key(self) -> DivergenceError:
        return DivergenceError(f"{self.what}, key {self.key}" if self.key else self.what, self.remedy, self.where)


class ProtocolError(TerminalError):
    """The replication stream holds bytes that pgoutput does not send; names message and byte, never values."""


class RetryableError(CdcError):
    """Expected to pass by itself; daemons retry with backoff, commands give up with exit code 3."""

    exit_code = 3


class BlockedError(RetryableError):
    """Nothing can go on before somebody acts; then everything does, by itself."""


def printable(text: str) -> str:
    """Names may hold what moves a terminal's cursor, or looks like another line: shown, it does neither."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _one_line(text: str) -> str:
    return printable(" ".join(text.split())).rstrip(".")
