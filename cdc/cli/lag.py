"""`cdc lag`: how far everybody is behind the leader, once or again and again."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict

import click
import orjson
from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cdc.cli.options import config_option, json_option
from cdc.cli.wiring.lag import lag_report, lag_watch
from cdc.cli.words import count, duration, size
from cdc.config import Settings, load
from cdc.errors import CheckError, ConfigError
from cdc.ports import LeaderProgress
from cdc.services.lag import GroupLook, Hop, LagReport

WATCH_SECONDS = 2.0
"""Between two looks."""
_RATE_SECONDS = 30.0
"""Rates are over the last so many seconds."""
_SHOWN_SECONDS = 300.0
"""What the sparkline shows."""
_SPARKS = 30
_SPARKS_WIDTH = 120
"""Of a terminal that has room for the sparkline."""
_FILE_WIDTH = 160
_BLOCKS = "▁▂▃▄▅▆▇█"


@click.command("lag")
@config_option
@json_option
@click.option("--watch", is_flag=True, help="Look again and again, until interrupted; with the last minutes as a line.")
@click.option("--max", "max_seconds", type=click.FloatRange(min=0), metavar="SECONDS",
              help="Exit 3 when a follower shows less than the leader had so many seconds ago.")  # fmt: skip
def lag_command(config_path: str | None, as_json: bool, watch: bool, max_seconds: float | None) -> None:
    """How far capture, the log and every follower are behind the leader.

    What each number means: ops/reference/lag.md.

    Exit 3 when a part cannot be reached, what can be is shown; with --max also when a follower is too late.
    """
    settings = load(config_path)
    if watch and (as_json or max_seconds is not None):
        raise ConfigError("--watch is for people: it goes with neither --json nor --max", "leave one of them out")
    if watch:
        _watch(settings)
        return
    report = lag_report(settings)
    if as_json:
        click.echo(orjson.dumps(asdict(report)))
    else:
        _print(report)
    if report.problems:
        first = report.problems[0].partition(". To do: ")[0]
        raise CheckError(f"some parts of the group cannot be reached: {first}", "see the lines above")
    if max_seconds is not None:
        _check(report, max_seconds)


def _print(report: LagReport) -> None:
    """Lines as long as they are, so that what is to be run can be copied; a file or pipe has no width."""
    console = Console() if sys.stdout.isatty() else Console(width=_FILE_WIDTH)
    console.print(_table(report, ()))
    for line, style in _lines(report):
        console.print(Text(line, style=style), soft_wrap=True)


def _check(report: LagReport, max_seconds: float) -> None:
    """Raises CheckError for the followers that are behind by more."""
    late = [hop for hop in report.followers if (hop.total_seconds or 0.0) > max_seconds]
    if late:
        told = ", ".join(f"{hop.name} is {_seconds(hop.total_seconds)} s behind" for hop in late)
        raise CheckError(f"{told}, more than {max_seconds:g} s", "see cdc status", f"group {report.group}")


def _watch(settings: Settings) -> None:
    history: deque[tuple[GroupLook, LagReport]] = deque()
    console = Console()
    with Live(console=console, auto_refresh=False, screen=False) as live:
        while True:
            began = time.monotonic()
            report, look = lag_watch(settings, _rate_base(history))
            history.append((look, report))
            while look.at - history[0][0].at > _SHOWN_SECONDS:
                history.popleft()
            shown = [old for _, old in history] if console.width >= _SPARKS_WIDTH else []
            live.update(lag_picture(report, shown), refresh=True)
            time.sleep(max(0.1, WATCH_SECONDS - (time.monotonic() - began)))


def _rate_base(history: Sequence[tuple[GroupLook, LagReport]]) -> GroupLook | None:
    """The oldest look that is not too old."""
    now = time.monotonic()
    return next((look for look, _ in history if now - look.at <= _RATE_SECONDS), None)


def lag_picture(report: LagReport, history: Sequence[LagReport]) -> Group:
    """The table, with how each came to be there if there is a history, and what a person should know beside it."""
    return Group(_table(report, history), *(Text(line, style=style) for line, style in _lines(report)))


def _table(report: LagReport, history: Sequence[LagReport]) -> Table:
    epoch = f", epoch {report.epoch}" if report.epoch else ""
    table = Table(title=f"group {report.group}{epoch}", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("", "position", "behind", "records", "seconds", "caught up in", "state"):
        whole = name in ("", "position")
        table.add_column(name, justify="left" if whole or name == "state" else "right", no_wrap=whole)
    if history:
        table.add_column(f"last {_SHOWN_SECONDS / 60:.0f} minutes", no_wrap=True)
    table.add_row(f"{report.leader_name} leads", *_leader_cells(report.leader))
    hops = [("-> capture", report.capture), ("-> log", report.log)]
    hops += [(f"-> {hop.name}", hop) for hop in report.followers]
    for label, hop in hops:
        past = [_sparkline([_total_of(old, hop.name) for old in history])] if history else []
        state = Text(hop.shown_state, style="" if hop.works else "red")
        table.add_row(label, hop.position, size(hop.lag_bytes), count(hop.records), _both(hop),
                      _catch_up(report, hop), state, *past)  # fmt: skip
    return table


def _leader_cells(leader: LeaderProgress | None) -> tuple[str, ...]:
    if leader is None:
        return ("?", "", "", "", "", "unreachable")
    return (str(leader.insert_lsn), "", "", "", "", "")


def _lines(report: LagReport) -> Iterator[tuple[str, str]]:
    for problem in report.problems:
        yield problem, "red"
    if report.leader is not None:
        yield f"slot: keeps {size(report.leader.retained_bytes)} of WAL, {report.leader.wal_status}", ""
    if report.wal_bytes_per_second is not None:
        yield f"WAL: {size(int(report.wal_bytes_per_second))} a second", ""
    if report.slot_lost_seconds is not None:
        yield f"slot: may be lost after {duration(report.slot_lost_seconds)} of this if capture stands still", ""
    for hop in report.followers:
        if hop.is_very_late and hop.retention_left_seconds is not None:
            left = duration(hop.retention_left_seconds)
            yield f"{hop.name}: the log keeps what it needs next for {left}", ""
    for warning in report.warnings:
        yield f"warning: {warning}", "yellow"


def _both(hop: Hop) -> str:
    """Of this hop; and of all of the way, where that is more."""
    own, total = _seconds(hop.lag_seconds), _seconds(hop.total_seconds)
    return own if hop.total_seconds is None or own == total else f"{own} ({total} in all)"


def _catch_up(report: LagReport, hop: Hop) -> str:
    if not hop.is_late:
        return ""
    if hop.catch_up_seconds is not None:
        return duration(hop.catch_up_seconds)
    return "not at this rate" if report.measured_seconds else ""


def _total_of(report: LagReport, name: str) -> float | None:
    hops = {hop.name: hop for hop in (*report.followers, report.capture, report.log)}
    return hops[name].total_seconds if name in hops else None


def _sparkline(values: Sequence[float | None]) -> str:
    """One block for the worst of several looks, a gap where nothing was known; and how much the highest block is."""
    each = max(1, -(-len(values) // _SPARKS))
    parts = [values[at : at + each] for at in range(0, len(values), each)]
    worst = [max((value for value in part if value is not None), default=None) for part in parts]
    known = [value for value in worst if value is not None]
    if not known:
        return ""
    top = max(1.0, *known)
    blocks = "".join(" " if value is None else _BLOCKS[round(value / top * (len(_BLOCKS) - 1))] for value in worst)
    return f"{blocks} of {top:.1f} s"


def _seconds(seconds: float | None) -> str:
    return "?" if seconds is None else f"{seconds:.1f}"
