"""The first copy of a follower, after which its applier goes on from the log.

The order is what makes it exact: remember where the log ends, ask capture to describe every relation
again, then take the snapshot. The follower's position is the snapshot's consistent point; everything
committed before it is in the copy, everything else comes after it in the log, and the descriptions
that those changes refer to lie behind the remembered offset.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from cdc import failpoints
from cdc.errors import CheckError
from cdc.events.position import Position
from cdc.ports import InitialCopy, LogReader, TableToCopy
from cdc.protocol.lsn import Lsn

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

    def tables_known(self, tables: list[TableToCopy]) -> None: ...

    def copied(self, table: TableToCopy, chunk_bytes: int) -> None: ...

    def table_done(self, table: TableToCopy, rows: int) -> None: ...


def bootstrap(copy: InitialCopy, reader: LogReader, watcher: Watcher) -> BootstrapReport:
    """Copy everything once. Safe to repeat: a finished copy is left alone, an unfinished one starts anew."""
    started = time.monotonic()
    tail = reader.read_tail()
    if tail is None:
        raise CheckError("the log is empty", "run: cdc init", "bootstrap")
    watcher.step("checking both databases")
    if not copy.begin():
        return BootstrapReport(already_done=True)
    _, log_end = reader.watermarks()
    copy.request_descriptions()
    watcher.step("waiting for a consistent snapshot of the leader")
    consistent_point = copy.open_snapshot()
    watcher.step("copying the schema")
    copy.copy_schema_before_data()
    rows, tables = _copy_tables(copy, watcher)
    watcher.step("building indexes and constraints")
    copy.copy_schema_after_data()
    failpoints.hit(failpoints.BOOTSTRAP_BEFORE_POSITION)
    watcher.step("making the follower read-only")
    position = Position(
        tail.epoch, Lsn(consistent_point - 1), consistent_point, time.time_ns() // 1000, log_end, tail.leader
    )
    copy.finish(position)
    log.info("bootstrapped", tables=tables, rows=rows, position=str(position), offset=log_end)
    return BootstrapReport(False, tables, rows, time.monotonic() - started, position)


def _copy_tables(copy: InitialCopy, watcher: Watcher) -> tuple[int, int]:
    tables = list(copy.tables())
    watcher.tables_known(tables)
    total = 0
    for table in tables:
        rows = copy.copy_table(table.table, _bytes_to(watcher, table))
        failpoints.hit(failpoints.BOOTSTRAP_COPYING)
        watcher.table_done(table, rows)
        total += rows
    return total, len(tables)


def _bytes_to(watcher: Watcher, table: TableToCopy) -> Callable[[int], None]:
    return lambda size: watcher.copied(table, size)
