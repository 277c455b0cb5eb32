"""What people see while it runs: a live table under the events on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import click
from rich import box
from rich.columns import Columns
from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

_PLAIN_EVERY_SECONDS = 2.0
_FRAMES_PER_SECOND = 4


@dataclass(frozen=True)
class FollowerView:
    """A node that does not lead, at one moment. `missing` says why there is nothing to show."""

    name: str
    missing: str | None
    rows_per_second: float = 0.0
    newest: int = 0
    lag_ms: float = 0.0
    pending_bytes: int | None = None
    bank_total: int = 0
    snapshots: int = 0
    passed: bool = True


@dataclass(frozen=True)
class DaemonView:
    """A daemon at one moment."""

    name: str
    running: bool
    killed: bool
    seconds: float
    """Since it was started, or killed."""
    starts: int


@dataclass(frozen=True)
class View:
    """All at one moment."""

    phase: str
    phase_seconds: float
    """How long it is going on."""
    leader: str
    leaderless_seconds: float | None
    """For how long nobody takes writes; None: somebody does."""
    transactions: int
    transactions_per_second: float
    rows_per_second: float
    followers: Sequence[FollowerView]
    daemons: Sequence[DaemonView]


class Mood(Enum):
    """How an event is meant; the value is its style on a terminal."""

    PLAIN = ""
    GOOD = "green"
    BAD = "bold red"


class Screen(Protocol):
    """Where events and the state go. `say` may be called by any thread."""

    def say(self, text: str, mood: Mood = Mood.PLAIN) -> None: ...

    def show(self, view: View) -> None: ...

    def close(self) -> None:
        """Nothing moves any more; what was shown last stays."""
        ...


class PlainLines:
    """A line an event, and every few seconds one with the state."""

    def __init__(self, *, to_stderr: bool) -> None:
        self._to_stderr = to_stderr
        self._started = self._shown = time.monotonic()

    def say(self, text: str, mood: Mood = Mood.PLAIN) -> None:
        click.echo(f"{time.monotonic() - self._started:6.1f} s  {text}", err=self._to_stderr)

    def show(self, view: View) -> None:
        if time.monotonic() - self._shown < _PLAIN_EVERY_SECONDS:
            return
        self._shown = time.monotonic()
        parts = [f"{view.leader} {view.transactions_per_second:.0f} transactions/s, {view.rows_per_second:.0f} rows/s"]
        if view.leaderless_seconds is not None:
            parts = ["nobody takes writes"]
        parts += [_plain_follower(follower) for follower in view.followers]
        parts += [f"{daemon.name} is dead" for daemon in view.daemons if not daemon.running]
        self.say("   ".join(parts))

    def close(self) -> None:
        """Nothing to end."""


def _plain_follower(follower: FollowerView) -> str:
    if follower.missing:
        return f"{follower.name}: {follower.missing}"
    bank = f"bank {follower.bank_total} {'ok' if follower.passed else 'WRONG'}"
    return f"{follower.name} lag {_milliseconds(follower.lag_ms)} {_bytes(follower.pending_bytes)}, {bank}"


class LiveScreen:
    """Events scroll by; below them the state is drawn anew a few times a second."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started = time.monotonic()
        wait = Spinner("dots", " one moment")
        self._live = Live(wait, console=console, refresh_per_second=_FRAMES_PER_SECOND, transient=True)
        self._live.start()

    def say(self, text: str, mood: Mood = Mood.PLAIN) -> None:
        seconds = time.monotonic() - self._started
        self._console.print(Text.assemble((f"{seconds:6.1f} s  ", "dim"), (text, mood.value)))

    def show(self, view: View) -> None:
        self._live.update(Group(Text(), _headline(view), _nodes(view), _daemons(view)))

    def close(self) -> None:
        self._live.stop()


def _headline(view: View) -> Text:
    head = Text.assemble((view.phase, "bold"), (f"  {view.phase_seconds:.0f} s\n", "dim"))
    if view.leaderless_seconds is not None:
        head.append(f"nobody takes writes, for {view.leaderless_seconds:.1f} s", "bold red")
    else:
        head.append(f"{view.leader} takes ").append(f"{view.transactions_per_second:.0f}", "bold cyan")
        head.append(" transactions/s, ").append(f"{view.rows_per_second:.0f}", "bold cyan").append(" rows/s")
    return head.append(f"; {view.transactions:,} transactions so far")


def _nodes(view: View) -> Table:
    """Fits into 80 columns, and does not jump when figures grow."""
    table = Table(header_style="bold", box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("follower")
    columns = {"rows/s": 6, "transaction": 11, "lag": 8, "WAL lag": 8, "bank's total": 12, "snapshots": 9}
    for name, width in columns.items():
        table.add_column(name, justify="right", min_width=width)
    for follower in view.followers:
        table.add_row(follower.name, *_cells(follower))
    return table


def _cells(follower: FollowerView) -> list[Text | str]:
    if follower.missing:
        return ["", Text(follower.missing, "dim"), "", "", "", ""]
    slow = "red" if follower.lag_ms > 1000 else "yellow" if follower.lag_ms > 250 else "green"
    verdict = Text(f"{follower.snapshots} ok", "green") if follower.passed else Text("WRONG", "bold red")
    return [
        f"{follower.rows_per_second:.0f}",
        f"{follower.newest:,}",
        Text(_milliseconds(follower.lag_ms), slow),
        _bytes(follower.pending_bytes),
        f"{follower.bank_total:,}",
        verdict,
    ]


def _daemons(view: View) -> Columns:
    return Columns([_daemon(daemon) for daemon in view.daemons], padding=(0, 3), column_first=False)


def _daemon(daemon: DaemonView) -> Text:
    if daemon.running:
        again = f", start {daemon.starts}" if daemon.starts > 1 else ""
        return Text.assemble(("● ", "green"), f"{daemon.name} ", (f"{daemon.seconds:.0f} s{again}", "dim"))
    ended = f"{'killed' if daemon.killed else 'ended'} {daemon.seconds:.1f} s ago"
    return Text.assemble(("✗ ", "bold red"), f"{daemon.name} ", (ended, "red"))


def _milliseconds(value: float) -> str:
    return f"{value:.0f} ms" if value < 10_000 else f"{value / 1000:.0f} s"


def _bytes(size: int | None) -> str:
    if size is None:
        return "?"
    for unit in ("B", "kB", "MB"):
        if size < 10_000:
            return f"{size} {unit}"
        size //= 1024
    return f"{size} GB"


def open_screen(*, as_json: bool) -> Screen:
    """The live one where somebody can see it; with --json stdout is the report's alone."""
    console = Console()
    if as_json or not sys.stdout.isatty() or console.is_dumb_terminal:
        return PlainLines(to_stderr=as_json)
    return LiveScreen(console)
