"""How a copy goes, for people: bars on a terminal, lines without one."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import click
from rich.console import Console
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    Task,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from cdc.copy_ports import Build, Part, TableToCopy
from cdc.errors import printable
from cdc.events.table import TableId
from cdc.services.bootstrap import Watcher

_LINE_SECONDS = 10.0


@dataclass
class Progressed:
    """How much of a table, or of all, is copied. Bytes are those on the leader's disk, which is what is known before;
    a part that is being copied counts by what COPY has sent of it, and never as more than it has."""

    bytes: int
    parts_left: int
    done_bytes: int = 0
    done_rows: int = 0
    moving: dict[Part, tuple[int, int]] = field(default_factory=dict)
    """Rows and bytes."""

    @property
    def rows_copied(self) -> int:
        return self.done_rows + sum(rows for rows, _ in self.moving.values())

    @property
    def bytes_copied(self) -> int:
        return self.done_bytes + sum(size for _, size in self.moving.values())

    def move(self, part: Part, rows: int, size: int) -> None:
        self.moving[part] = rows, min(size, part.bytes)

    def finish(self, part: Part, rows: int) -> None:
        self.moving.pop(part, None)
        self.done_rows += rows
        self.done_bytes += part.bytes
        self.parts_left -= 1


class _Counting(Watcher):
    """Keeps the sums; subclasses show them."""

    def __init__(self) -> None:
        self._all = Progressed(0, 0)
        self._tables: dict[TableId, Progressed] = {}
        self._began: dict[TableId, float] = {}

    def parts_known(self, tables: Sequence[TableToCopy], parts: Sequence[Part]) -> None:
        self._all = Progressed(sum(part.bytes for part in parts), len(parts))
        self._tables = {t.table: Progressed(0, 0) for t in tables}
        for part in parts:
            self._tables[part.table].bytes += part.bytes
            self._tables[part.table].parts_left += 1

    def copied(self, part: Part, rows: int, size: int) -> None:
        self._began.setdefault(part.table, time.monotonic())
        self._tables[part.table].move(part, rows, size)
        self._all.move(part, rows, size)

    def part_done(self, part: Part, rows: int) -> None:
        self._tables[part.table].finish(part, rows)
        self._all.finish(part, rows)


class PlainLines(_Counting):
    """Without a terminal: a line a step, a line a table, and now and then one about all of it."""

    def __enter__(self) -> PlainLines:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def step(self, name: str) -> None:
        click.echo(name, err=True)

    def parts_known(self, tables: Sequence[TableToCopy], parts: Sequence[Part]) -> None:
        super().parts_known(tables, parts)
        self._started = self._told = time.monotonic()

    def copied(self, part: Part, rows: int, size: int) -> None:
        super().copied(part, rows, size)
        now = time.monotonic()
        if now - self._told >= _LINE_SECONDS:
            self._told = now
            click.echo(summary(self._all, now - self._started), err=True)

    def part_done(self, part: Part, rows: int) -> None:
        super().part_done(part, rows)
        table = self._tables[part.table]
        if not table.parts_left:
            seconds = time.monotonic() - self._began.get(part.table, time.monotonic())
            click.echo(
                f"copied {printable(str(part.table))}: {table.done_rows} rows, {decimal(table.bytes)} "
                f"in {seconds:.1f} s",
                err=True,
            )

    def built(self, build: Build) -> None:
        click.echo(f"built {build.kind.lower()} {printable(build.name)}", err=True)


def summary(progressed: Progressed, seconds: float) -> str:
    """One line: share, rows, bytes, rate, time left."""
    rate = progressed.bytes_copied / max(seconds, 0.001)
    left = timedelta(seconds=round((progressed.bytes - progressed.bytes_copied) / rate)) if rate else "unknown time"
    return (
        f"{100 * progressed.bytes_copied // max(1, progressed.bytes)} % of {decimal(progressed.bytes)}, "
        f"{progressed.rows_copied} rows, {decimal(int(rate))}/s, {left} left"
    )


class _Size(DownloadColumn):
    def render(self, task: Task) -> Text:
        return super().render(task) if task.fields["in_bytes"] else Text()


class _Rate(TransferSpeedColumn):
    def render(self, task: Task) -> Text:
        return super().render(task) if task.fields["in_bytes"] else Text()


class ProgressBars(_Counting):
    """On a terminal: a bar for all, and one for each table that is being copied."""

    def __init__(self) -> None:
        super().__init__()
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[rows]}"),
            _Size(), _Rate(), TimeRemainingColumn(), console=Console(stderr=True),
        )  # fmt: skip
        self._tasks: dict[TableId | None, TaskID] = {}
        self._builds: TaskID | None = None

    def __enter__(self) -> ProgressBars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def step(self, name: str) -> None:
        self._progress.console.print(name, markup=False, highlight=False)

    def parts_known(self, tables: Sequence[TableToCopy], parts: Sequence[Part]) -> None:
        super().parts_known(tables, parts)
        self._tasks[None] = self._progress.add_task("all tables", total=max(1, self._all.bytes), rows="", in_bytes=True)

    def copied(self, part: Part, rows: int, size: int) -> None:
        super().copied(part, rows, size)
        self._show(part.table)

    def part_done(self, part: Part, rows: int) -> None:
        super().part_done(part, rows)
        self._show(part.table)
        if not self._tables[part.table].parts_left and part.table in self._tasks:
            self._progress.update(self._tasks[part.table], visible=False)

    def _show(self, name: TableId) -> None:
        if name not in self._tasks:
            shown = printable(str(name)).replace("[", r"\[")
            self._tasks[name] = self._progress.add_task(
                shown, total=max(1, self._tables[name].bytes), rows="", in_bytes=True
            )
        for key, progressed in ((name, self._tables[name]), (None, self._all)):
            self._progress.update(
                self._tasks[key],
                completed=max(progressed.bytes_copied, 0 if progressed.parts_left else 1),
                rows=f"{progressed.rows_copied:,} rows",
            )

    def builds_known(self, count: int) -> None:
        self._builds = self._progress.add_task("indexes and constraints", total=max(1, count), rows="", in_bytes=False)
        self._count, self._built = count, 0

    def built(self, build: Build) -> None:
        self._built += 1
        if self._builds is not None:
            self._progress.update(self._builds, completed=self._built, rows=f"{self._built} of {self._count}")


def watcher() -> ProgressBars | PlainLines:
    return ProgressBars() if sys.stderr.isatty() else PlainLines()
