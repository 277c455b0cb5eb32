"""The first copy of a follower, after which its applier goes on from the log.

The order is what makes it exact: remember where the log ends, ask capture to describe every relation
again, then take the snapshot. The follower's position is the snapshot's consistent point; everything
committed before it is in the copy, everything else comes after it in the log, and the descriptions
that those changes refer to lie behind the remembered offset.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from cdc import failpoints
from cdc.copy_ports import Build, CopyWorker, InitialCopy, Part, TableToCopy
from cdc.errors import CheckError
from cdc.events.position import Position
from cdc.log.tail import LogTail
from cdc.ports import LogReader
from cdc.protocol.lsn import Lsn
from cdc.services.parallel_copy import Done, Moved, ParallelCopy

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class BootstrapReport:
    """What was copied; no tables when the follower had been copied before."""

    already_done: bool
    tables: int = 0
    rows: int = 0
    seconds: float = 0.0
    position: Position | None = None


class Watcher:
    """Hears how the copy goes; the methods do nothing unless overridden."""

    def step(self, name: str) -> None: ...

    def parts_known(self, tables: Sequence[TableToCopy], parts: Sequence[Part]) -> None: ...

    def copied(self, part: Part, rows: int, size: int) -> None:
        """So much of the part, counted from its beginning."""

    def part_done(self, part: Part, rows: int) -> None: ...

    def builds_known(self, count: int) -> None: ...

    def built(self, build: Build) -> None: ...


def bootstrap(copy: InitialCopy, reader: LogReader, watcher: Watcher, jobs: int = 1) -> BootstrapReport:
    """Copy everything once. Safe to repeat: a finished copy is left alone, an unfinished one starts anew."""
    started = time.monotonic()
    tail = end_of_log(reader)
    watcher.step("checking both databases")
    if not copy.begin():
        return BootstrapReport(already_done=True)
    _, log_end = reader.watermarks()
    copy.request_descriptions()
    watcher.step("waiting for a consistent snapshot of the leader")
    consistent_point = copy.open_snapshot()
    watcher.step("preparing the schema")
    copy.prepare_schema()
    tables = copy.tables()
    watcher.step(f"copying the rows of {len(tables)} tables")
    parts = copy.parts()
    watcher.parts_known(tables, parts)
    rows = copy_parts(ParallelCopy(jobs, copy.worker, copy.check_snapshot), parts, watcher)
    copy.release_snapshot()
    builds = copy.builds()
    watcher.step("building indexes and constraints")
    watcher.builds_known(sum(map(len, builds)))
    for group in builds:
        _build(ParallelCopy(jobs, copy.worker), group, watcher)
    failpoints.hit(failpoints.BOOTSTRAP_BEFORE_POSITION)
    watcher.step("making the follower read-only")
    position = position_at(consistent_point, tail, log_end)
    copy.finish(position)
    log.info("bootstrapped", tables=len(tables), rows=rows, position=str(position), offset=log_end)
    return BootstrapReport(False, len(tables), rows, time.monotonic() - started, position)


def end_of_log(reader: LogReader) -> LogTail:
    """Raises CheckError when nothing was ever published: there is nothing to go on from."""
    tail = reader.read_tail()
    if tail is None:
        raise CheckError("the log is empty", "run: cdc init", "bootstrap")
    return tail


def position_at(consistent_point: Lsn, tail: LogTail, log_end: int) -> Position:
    """Of a follower that holds what a snapshot showed; it goes on from where the log ended before that."""
    return Position(
        tail.epoch, Lsn(consistent_point - 1), consistent_point, time.time_ns() // 1000, log_end, tail.leader
    )


def copy_parts(workers: ParallelCopy[Part], parts: Sequence[Part], watcher: Watcher) -> int:
    """All of them; the number of rows."""
    total = 0

    def work(worker: CopyWorker, part: Part, progress: Callable[[int, int], None]) -> int:
        return worker.copy(part, progress)

    def hear(event: Done[Part] | Moved[Part]) -> None:
        nonlocal total
        if isinstance(event, Moved):
            watcher.copied(event.task, event.rows, event.bytes)
            return
        total += event.rows
        watcher.part_done(event.task, event.rows)
        failpoints.hit(failpoints.BOOTSTRAP_COPYING)

    workers.run(parts, work, hear)
    return total


def _build(workers: ParallelCopy[Build], group: Sequence[Build], watcher: Watcher) -> None:
    def work(worker: CopyWorker, build: Build, _progress: Callable[[int, int], None]) -> int:
        worker.build(build)
        return 0

    def hear(event: Done[Build] | Moved[Build]) -> None:
        watcher.built(event.task)
        failpoints.hit(failpoints.BOOTSTRAP_BUILDING)

    workers.run(group, work, hear)
