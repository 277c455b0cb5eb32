"""Some tables of a follower are copied anew, while its applier goes on.

The rows of a new snapshot are put aside. The log's changes of these tables since then follow them there, up to the
very transaction that the applier has come to; there the applier is held for a moment, and the rows change places. So
what was committed before the snapshot is not applied again, and nothing after it is lost, whatever the old rows were.

When no applier runs and the position is before the snapshot, which is so when it stopped at a row of such a table,
the rows change places at once; the follower remembers up to where the applier must leave out their changes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import structlog

from cdc import failpoints
from cdc.copy_ports import Recopy
from cdc.errors import CdcError
from cdc.events.position import Position, TransactionName
from cdc.ports import LogReader
from cdc.protocol.lsn import Lsn
from cdc.services.apply import ApplyLimits, ApplySession
from cdc.services.bootstrap import Watcher, copy_parts, end_of_log, position_at
from cdc.services.parallel_copy import ParallelCopy

log = structlog.get_logger(__name__)

_NEAR_SECONDS = 2.0
"""When following the applier took no longer than this, the rest can be done while it waits."""
_LOOK_SECONDS = 0.5
_TELL_SECONDS = 10.0
_NEVER = TransactionName(2**62, Lsn(0))


@dataclass(frozen=True)
class RecopyReport:
    """`at` is the position at which the rows changed places; `ahead` what they are as of, where that is later."""

    tables: int
    rows: int
    seconds: float
    at: Position
    ahead: TransactionName | None


def recopy(copy: Recopy, reader: LogReader, watcher: Watcher, jobs: int = 1) -> RecopyReport:
    """Can be repeated; what an earlier run left aside is dropped first."""
    started = time.monotonic()
    tail = end_of_log(reader)
    watcher.step("checking both databases")
    copy.begin()
    try:
        _, log_end = reader.watermarks()
        copy.request_descriptions()
        watcher.step("waiting for a consistent snapshot of the leader")
        point = copy.open_snapshot()
        tables, parts = copy.tables(), copy.parts()
        watcher.step(f"copying the rows of {len(tables)} tables aside")
        watcher.parts_known(tables, parts)
        rows = copy_parts(ParallelCopy(jobs, copy.worker, copy.check_snapshot), parts, watcher)
        snapshot = position_at(point, tail, log_end)
        names = {table.table for table in tables}
        session = ApplySession(
            reader, copy.target(), ApplyLimits(), "", snapshot,
            copied_ahead=lambda table: None if table in names else _NEVER,
        )  # fmt: skip
        at, ahead = _exchange(copy, session, snapshot, rows, watcher)
    finally:
        try:
            copy.finish()
        except CdcError as error:
            log.warning("what was put aside is left for the next run to drop", error=str(error))
    return RecopyReport(len(tables), rows, time.monotonic() - started, at, ahead)


def _exchange(
    copy: Recopy, session: ApplySession, snapshot: Position, rows: int, watcher: Watcher
) -> tuple[Position, TransactionName | None]:
    ahead = None
    if _reached(copy, snapshot, watcher):
        watcher.step("following the log up to the applier")
        _follow(copy, session)
    else:
        ahead = TransactionName(snapshot.epoch, snapshot.end_lsn)
    failpoints.hit(failpoints.RECOPY_BEFORE_EXCHANGE)
    watcher.step("exchanging the rows")
    with copy.applier_waits() as at:
        if ahead is None:
            session.follow_to(at.name)
        copy.exchange(at, ahead, rows)
    return at, ahead


def _reached(copy: Recopy, snapshot: Position, watcher: Watcher) -> bool:
    """Whether the follower is at the snapshot or later; waits for its applier as long as there is one."""
    told = 0.0
    while copy.position().name < snapshot.name:
        if copy.take_appliers_place():
            return copy.position().name >= snapshot.name
        if time.monotonic() - told > _TELL_SECONDS:
            told = time.monotonic()
            watcher.step(f"waiting until the applier has come to {snapshot.name}; it is at {copy.position().name}")
        time.sleep(_LOOK_SECONDS)
    return True


def _follow(copy: Recopy, session: ApplySession) -> None:
    while True:
        began = time.monotonic()
        session.follow_to(copy.position().name)
        if time.monotonic() - began < _NEAR_SECONDS:
            return
