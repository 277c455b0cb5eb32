"""`cdc check`: every requirement, each with what was found, why it matters and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

import click
import orjson
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cdc.cli.options import config_option, json_option
from cdc.cli.wiring.check import checked
from cdc.config import load
from cdc.errors import CheckError, printable
from cdc.services.checks.check import Status
from cdc.services.checks.report import CheckReport, Line

_STYLES = {Status.OK: "green", Status.WARNING: "yellow", Status.FAILED: "bold red"}


@click.command("check")
@config_option
@json_option
def check_command(config_path: str | None, as_json: bool) -> None:
    """Look at every requirement of leader, followers and Kafka; nothing is changed.

    Before `cdc init`, before a bootstrap and at any time after: what does not exist yet is no failure. What each line
    means: ops/reference/check.md.

    Exit 3 when a requirement is not met, or a server cannot be reached; what can be is shown.
    """
    report = checked(load(config_path))
    if as_json:
        click.echo(orjson.dumps({**asdict(report), "failed": report.count(Status.FAILED)}))
    else:
        _show(report)
    failures = report.count(Status.FAILED)
    if failures:
        raise CheckError(f"{failures} checks failed" if failures > 1 else "a check failed", "see the lines above")


def _show(report: CheckReport) -> None:
    console = Console()
    console.print(_table(report))
    for line in report.lines:
        if line.status is not Status.OK:
            for text in _told(line):
                click.echo(text)


def _table(report: CheckReport) -> Table:
    counts = ", ".join(f"{report.count(status)} {status}" for status in Status)
    table = Table(title=f"group {report.group}, led by {report.leader}: {counts}", title_justify="left")
    table.add_column("")
    table.add_column("check")
    table.add_column("where")
    table.add_column("found", overflow="fold")
    for line in report.lines:
        status = f"[{_STYLES[line.status]}]{line.status}"
        table.add_row(status, line.id, escape(line.place), escape(printable(line.found)))
    return table


def _told(line: Line) -> Iterator[str]:
    """Not in the table: what is to be run shall be copied in one piece."""
    yield f"{line.status}: {line.id} of {line.place}: {printable(line.found)}"
    yield f"  why: {line.why}"
    yield f"  to do: {printable(line.remedy)}"
