"""Making a group: `cdc init` and `cdc bootstrap`. Both can be repeated."""

from __future__ import annotations

import sys

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)

from cdc.cli import wiring
from cdc.cli.options import config_option, follower_option
from cdc.config import load
from cdc.logging import configure_logging
from cdc.ports import TableToCopy
from cdc.services.bootstrap import Watcher, bootstrap


@click.command("init")
@config_option
def init_command(config_path: str | None) -> None:
    """Make publication, topic, slot and bookkeeping on the leader; what is there already is left alone."""
    for step in wiring.initializer(load(config_path)).run():
        click.echo(f"{'made' if step.made else 'there already':<14} {step.name}: {step.detail}")


@click.command("bootstrap")
@config_option
@follower_option
def bootstrap_command(config_path: str | None, follower: str) -> None:
    """Copy schema and all published rows into an empty database, and make it a read-only follower.

    Safe while the leader takes writes. A copy that was interrupted starts anew.
    """
    settings = load(config_path)
    dsn = settings.dsn_of(follower)
    configure_logging("console", "warning")
    with wiring.initial_copy(settings, follower, dsn) as (copy, reader), _watcher() as watcher:
        report = bootstrap(copy, reader, watcher)
    if report.already_done:
        click.echo(f"{follower} was bootstrapped before; nothing to do. Next: cdc apply --follower {follower}")
        return
    click.echo(
        f"{follower} holds {report.rows} rows of {report.tables} tables as of {report.position} "
        f"({report.seconds:.1f} s), and is read-only. Next: cdc apply --follower {follower}"
    )


class PlainLines(Watcher):
    """Without a terminal: a line a step and a line a table."""

    def __enter__(self) -> PlainLines:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def step(self, name: str) -> None:
        click.echo(name, err=True)

    def table_done(self, table: TableToCopy, rows: int) -> None:
        click.echo(f"copied {table.table}: {rows} rows", err=True)


class ProgressBars(Watcher):
    """On a terminal: a bar a table, by the leader's size of it, which is near and not exact."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
            TimeElapsedColumn(), console=Console(stderr=True),
        )  # fmt: skip
        self._tasks: dict[TableToCopy, TaskID] = {}

    def __enter__(self) -> ProgressBars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def step(self, name: str) -> None:
        self._progress.console.print(name)

    def tables_known(self, tables: list[TableToCopy]) -> None:
        for table in tables:
            self._tasks[table] = self._progress.add_task(str(table.table), total=max(1, table.bytes))

    def copied(self, table: TableToCopy, chunk_bytes: int) -> None:
        self._progress.advance(self._tasks[table], chunk_bytes)

    def table_done(self, table: TableToCopy, rows: int) -> None:
        task = self._tasks[table]
        done = self._progress.tasks[task].completed
        self._progress.update(task, total=max(1, done), completed=max(1, done))


def _watcher() -> ProgressBars | PlainLines:
    return ProgressBars() if sys.stderr.isatty() else PlainLines()
