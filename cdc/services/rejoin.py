"""`cdc rejoin`: a node that led comes back as a follower.

What it committed and nobody else has - its tail behind the end of its epoch - is read from its own slot, which was
never confirmed past what the log holds, and is written to a file with both versions of each row. Then the rows that it
touched, and those that the group has changed since, are taken over from the leader in one snapshot, whose consistent
point becomes the node's position. All other rows are the same on both: nobody has written them since.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import orjson

from cdc import __version__
from cdc.capture_ports import ChangeStream, LeaderDatabase, LeaderIdentity, SlotFacts
from cdc.errors import CheckError, FencedError, LogError, RetryableError, SlotError
from cdc.events.assembler import Assembler, Resume
from cdc.events.position import Position
from cdc.events.table import TableId
from cdc.events.touched import Key, TouchedRows, TouchedTable
from cdc.log.envelope import Envelope, Finisher
from cdc.log.parts import PartJoiner
from cdc.log.records import parse
from cdc.log.tail import LogTail
from cdc.promotion_ports import STALE, EpochStart, PromotionLog, PromotionNode
from cdc.protocol.lsn import Lsn
from cdc.services.kept_file import kept

_BOOTSTRAP = "drop and create its database and bootstrap it (ops/runbooks/new-group.md, step 4)"
_READ_BYTES = 1 << 20
_QUIET_SECONDS = 15.0
_SLOT_SECONDS = 5.0
_LOG_SECONDS = 60.0
_BATCH = 500


Change = tuple[bytes | None, dict[str, Any]]
"""Key and event of a record of the log."""


class RejoinLog(PromotionLog, Protocol):
    """The log, read from an offset on as well."""

    def seek(self, offset: int) -> None: ...

    def watermarks(self) -> tuple[int, int]: ...

    def consume(self, limit: int, timeout: float) -> Sequence[Any]: ...


class Takeover(Protocol):
    """The leader in one snapshot, and the node that takes rows over from it in one transaction."""

    def open(self) -> Lsn:
        """The consistent point: every transaction that committed before it is in the snapshot."""
        ...

    def leaders_rows(
        self, table: TableId, columns: tuple[str, ...], keys: Sequence[Key]
    ) -> dict[Key, dict[str, str | None]]:
        """Those rows as the leader has them now."""
        ...

    def take_over(self, tables: dict[TableId, TouchedTable], position: Position, slot: str) -> int:
        """Make these rows the leader's and the node a follower at `position`; how many rows there are now."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class RejoinSettings:
    """`slot` is also the name of the publication."""

    group: str
    topic: str
    slot: str
    node: str
    depth_bytes: int
    grace_seconds: float = 5.0


@dataclass(frozen=True, slots=True)
class RejoinReport:
    """`tail_transactions` and `tail_changes` were only on this node; `file` holds them. `position` is None when the
    node does not follow yet."""

    node: str
    leader: str
    epoch: int
    already: bool = False
    tail_transactions: int = 0
    tail_changes: int = 0
    file: str | None = None
    rows_taken_over: int = 0
    position: str | None = None


@dataclass(frozen=True, slots=True)
class _Ends:
    """Where the node's epoch ended in the log, and how the log goes on."""

    tail: LogTail
    start: EpochStart
    before: LogTail
    identity: LeaderIdentity


class Rejoin:
    """Joins one node. The callables connect."""

    def __init__(
        self,
        settings: RejoinSettings,
        node: Callable[[], PromotionNode],
        database: Callable[[], LeaderDatabase],
        stream: Callable[[], ChangeStream],
        log: RejoinLog,
        takeover: Callable[[str, PromotionNode], Takeover],
        tell: Callable[[str], None],
    ) -> None:
        """`database` and `stream` are the node's; `takeover` gets the leader's name, and the node that takes over."""
        self._settings = settings
        self._node = node
        self._database = database
        self._stream = stream
        self._log = log
        self._takeover = takeover
        self._tell = tell

    def run(self, who: str, file: Path, *, dry_run: bool, discard_tail: bool) -> RejoinReport:
        """Raises CheckError or SlotError when the node cannot be joined this way, or CheckError when `file` cannot be
        written, if possible before anything is changed; and CheckError behind the export when its tail is not empty and
        may not be discarded."""
        tail = self._tail()
        with closing(self._node()) as node:
            state = node.state()
            if state.identity is None or tail.leader == self._settings.node:
                return self._without_identity(tail, state.position, node, who, dry_run)
            node.take_lock(who)
            ends = self._ends(tail, state.identity)
            self._check_node(ends)
            upto = node.wal_lsn()
            if not dry_run:
                with kept(file):
                    pass  # a file that cannot be written is noticed before anything is changed
                self._tell(f"closing {node.name} for writes")
                upto = node.fence(STALE, node.published(self._settings.slot), self._settings.grace_seconds)
                node.release_slot(self._settings.slot)
            self._tell(f"reading what only {node.name} has, from its slot")
            return self._join(node, ends, upto, file, dry_run, discard_tail)

    def _join(
        self, node: PromotionNode, ends: _Ends, upto: Lsn, file: Path, dry_run: bool, discard_tail: bool
    ) -> RejoinReport:
        settings = self._settings
        with closing(self._takeover(ends.tail.leader, node)) as takeover:
            touched = TouchedRows()
            transactions = self._export(ends, upto, None if dry_run else file, touched, takeover)
            told = RejoinReport(
                settings.node, ends.tail.leader, ends.tail.epoch, tail_transactions=transactions,
                tail_changes=touched.changes, file=str(file) if transactions and not dry_run else None,
            )  # fmt: skip
            if dry_run:
                return told
            if transactions and not discard_tail:
                raise CheckError(
                    f"{transactions} transactions ({touched.changes} changes) are only on this node; see {file}",
                    "look at them, then repeat with --discard-tail; this node stays closed for writes",
                    settings.node,
                )
            if not transactions:
                before = ends.before
                position = Position(
                    before.epoch, before.commit_lsn, before.end_lsn, before.committed_at_us, ends.start.offset,
                    ends.tail.leader,
                )  # fmt: skip
                node.follow(position, settings.slot)
                return _joined(told, position, 0)
            return self._take_over(takeover, ends, touched, told)

    def _take_over(self, takeover: Takeover, ends: _Ends, touched: TouchedRows, told: RejoinReport) -> RejoinReport:
        offset = self._log.watermarks()[1]
        consistent_point = takeover.open()
        self._tell("reading what the group has changed since")
        committed_at_us = self._collect(ends, consistent_point, touched)
        position = Position(
            ends.tail.epoch, Lsn(consistent_point - 1), consistent_point, committed_at_us, offset, ends.tail.leader
        )
        self._tell(f"taking over the rows of {len(touched.tables)} tables from {ends.tail.leader}")
        rows = takeover.take_over(touched.tables, position, self._settings.slot)
        return _joined(told, position, rows)

    # looking

    def _tail(self) -> LogTail:
        tail = self._log.read_tail(depth_bytes=self._settings.depth_bytes)
        if tail is None or not tail.leader:
            raise LogError("the log does not say who leads", "run: cdc init", f"topic {self._settings.topic}")
        return tail

    def _without_identity(
        self, tail: LogTail, position: Position | None, node: PromotionNode, who: str, dry_run: bool
    ) -> RejoinReport:
        """A node that is no leader, or the one that leads. What a run that was killed has left is put right."""
        name = self._settings.node
        if tail.leader == name:
            raise CheckError(f"{name} leads this group", "nothing to do", name)
        if position is None:
            raise CheckError(f"{name} has never led this group", f"run: cdc bootstrap --follower {name}", name)
        report = RejoinReport(name, tail.leader, tail.epoch, already=position.leader != name, position=str(position))
        if dry_run:
            return report
        node.take_lock(who)
        if report.already:
            node.drop_slot(self._settings.slot)
        else:
            # It was to lead, and was not opened: its identity and its first write would have come together.
            node.follow(position._replace(leader=tail.leader), self._settings.slot)
        return report

    def _ends(self, tail: LogTail, identity: LeaderIdentity) -> _Ends:
        start = self._log.find_epoch(identity.epoch + 1, self._settings.depth_bytes)
        if start is None:
            raise CheckError(
                f"the end of epoch {identity.epoch}, which this node led, is not in the log any more",
                _BOOTSTRAP,
                self._settings.node,
            )
        before = self._log.read_tail(end=start.offset)
        if before is None or before.epoch != identity.epoch:
            where = self._settings.node
            raise CheckError(f"the end of epoch {identity.epoch} is not in the log any more", _BOOTSTRAP, where)
        return _Ends(tail, start, before, identity)

    def _check_node(self, ends: _Ends) -> None:
        """The node's WAL must be the one that the log was made of, and its slot must still have all behind it."""
        node, identity = self._settings.node, ends.identity
        with closing(self._stream()) as stream, closing(self._database()) as database:
            system = stream.identify()
            slot = database.slot(self._settings.slot)
        if (system.system_id, system.timeline) != (identity.system_id, identity.timeline):
            raise CheckError(
                f"this is not the server that led epoch {identity.epoch} (system {system.system_id}, timeline "
                f"{system.timeline}; then {identity.system_id}, {identity.timeline}): it was restored or replaced",
                _BOOTSTRAP,
                node,
            )
        _check_slot(slot, self._settings.slot, ends.before, node)

    # the tail

    def _export(self, ends: _Ends, upto: Lsn, file: Path | None, touched: TouchedRows, takeover: Takeover) -> int:
        """Keep the tail in `file`, which is only made when there is one; how many transactions changed rows."""
        transactions, changes_before = 0, 0
        with kept(file) if file else nullcontext(io.BytesIO()) as out:
            batch: list[Change] = []
            for key, event in self._tail_events(ends, upto):
                touched.add(key, event)
                batch.append((key, event))
                if event["cdc"].get("last") and touched.changes > changes_before:
                    transactions, changes_before = transactions + 1, touched.changes
                if len(batch) >= _BATCH:
                    _write_both(out, batch, takeover)
                    batch.clear()
            _write_both(out, batch, takeover)
        return transactions

    def _tail_events(self, ends: _Ends, upto: Lsn) -> Iterator[Change]:
        """Changes behind the end of the node's epoch, read from its slot without confirming anything."""
        with closing(self._database()) as database, closing(self._stream()) as stream:
            envelope = Envelope(self._settings.group, database.database(), __version__, ends.identity.epoch)
            resume = Resume(ends.before.commit_lsn, ends.before.end_lsn, Lsn(0), 0)
            assembler = Assembler(
                envelope, Finisher(self._settings.node), database.type_names(), resume, lambda: time.time_ns() // 1000
            )
            self._start(stream)
            heard_at = time.monotonic()
            while assembler.received_lsn < upto or assembler.in_transaction:
                frames = stream.read(_READ_BYTES, 0.25)
                stream.send_status(assembler.received_lsn, 0, 0)
                if frames:
                    heard_at = time.monotonic()
                elif time.monotonic() - heard_at > _QUIET_SECONDS:
                    raise RetryableError(f"the slot does not tell what is before {upto}", "repeat", self._settings.node)
                for key, value in assembler.feed(frames):
                    event = orjson.loads(value)
                    if event["op"] != "m":
                        yield key, event

    def _start(self, stream: ChangeStream) -> None:
        """Whoever streamed before was ended, and may need a moment to go."""
        deadline = time.monotonic() + _SLOT_SECONDS
        while True:
            try:
                stream.start(self._settings.slot, self._settings.slot, 0)
                return
            except FencedError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    # what the group did meanwhile

    def _collect(self, ends: _Ends, consistent_point: Lsn, touched: TouchedRows) -> int:
        """All that the log has from the end of the node's epoch up to the snapshot; the commit time of the last."""
        joiner = PartJoiner()
        self._log.seek(ends.start.offset)
        deadline = time.monotonic() + _LOG_SECONDS
        while True:
            records = self._log.consume(2000, 0.5)
            if not records and time.monotonic() > deadline:
                raise RetryableError(
                    "the log does not reach the leader's snapshot", "see that cdc capture runs, then repeat",
                    self._settings.topic,
                )  # fmt: skip
            for record in records:
                deadline = time.monotonic() + _LOG_SECONDS
                event, meta = parse(record.value(), record.offset())
                if meta.get("kind") == "part":
                    joined = joiner.add(meta, event["message"]["content"])
                    if joined is None:
                        continue
                    event, meta = parse(joined, record.offset())
                if "seq" not in meta or meta["epoch"] <= ends.identity.epoch:
                    continue
                touched.add(record.key(), event)
                if meta["epoch"] == ends.tail.epoch and "last" in meta and meta["commit_lsn"] >= consistent_point - 1:
                    return int(event["source"]["ts_us"])


def _check_slot(slot: SlotFacts | None, name: str, before: LogTail, node: str) -> None:
    if slot is None or slot.invalidation is not None:
        raise SlotError(
            f"replication slot {name} is gone or lost: what only this node has cannot be read any more",
            _BOOTSTRAP,
            node,
        )
    if slot.confirmed_flush_lsn > before.end_lsn:
        raise SlotError(
            f"slot {name} is confirmed up to {slot.confirmed_flush_lsn}, this node's epoch ended at {before.end_lsn}: "
            "what is between them cannot be read any more",
            _BOOTSTRAP,
            node,
        )


def _write_both(out: BinaryIO, batch: Sequence[Change], takeover: Takeover) -> None:
    """One JSON object a change: the event, and the row as the leader has it now."""
    wanted = TouchedRows()
    for key, event in batch:
        wanted.add(key, event)
    rows = {
        table: takeover.leaders_rows(table, touched.columns, sorted(touched.keys, key=repr))
        for table, touched in wanted.tables.items()
        if touched.keys
    }
    for key, event in batch:
        table = TableId(event["source"]["schema"], event["source"]["table"])
        named = orjson.loads(key)["key"] if key else None
        row = rows.get(table, {}).get(tuple(named.values())) if named else None
        line = {"table": str(table), "key": named, "event": event, "leader_row": row}
        out.write(orjson.dumps(line) + b"\n")


def _joined(told: RejoinReport, position: Position, rows: int) -> RejoinReport:
    return RejoinReport(
        told.node, told.leader, told.epoch, False, told.tail_transactions, told.tail_changes, told.file, rows,
        str(position),
    )  # fmt: skip
