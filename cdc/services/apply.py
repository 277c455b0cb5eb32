"""Log to follower: accept the next link, gather a window, apply it as sets, commit rows and position together.

A window holds whole leader transactions, as many as are there when the last commit is done, bounded by
rows and bytes. A leader transaction larger than the bound is applied piece by piece inside one open
transaction of the follower, so memory stays flat and nobody sees a part of it.

How a window reaches the follower is in `replay.py`.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count, islice
from operator import methodcaller
from typing import Any, NoReturn

import structlog

from cdc import failpoints
from cdc.errors import (
    NEW_GROUP,
    BlockedError,
    CdcError,
    ChainGapError,
    DivergenceError,
    FencedError,
    LogError,
    RetryableError,
    TerminalError,
)
from cdc.events.position import Position, TransactionName
from cdc.events.table import TableId, TableSchema
from cdc.log.chain import Chain, Verdict
from cdc.log.compiled import HOW_ROWS_PASS, ChangeReader
from cdc.log.parts import PartJoiner
from cdc.log.records import (
    MalformedError,
    check_link,
    check_row,
    is_later_part,
    kind_of,
    names_in_rows,
    parse,
    position_after,
    table_schema,
    truncation,
    unfit,
)
from cdc.log.runs import Run
from cdc.log.sequences import SEQUENCES_PREFIX, sequence_values
from cdc.memory import GIVE_BACK_SECONDS, give_back, work_for_long
from cdc.ports import LogReader, LogRecord, TablePlan, Target
from cdc.protocol.lsn import Lsn
from cdc.retry import at_most_every, run_with_retries
from cdc.services.batches import BatchReader
from cdc.services.health import Health
from cdc.services.lag import removal_is_near
from cdc.services.meters import ApplyMeter
from cdc.services.replay import Replay
from cdc.services.window import Item, Window
from cdc.stop import StopToken

log = structlog.get_logger(__name__)

_ROW_OPERATIONS = frozenset("cud")
_FINGERPRINT = re.compile("[0-9a-f]{12}")

_IDLE_WAIT_SECONDS = 0.5
"""How long one wait for records lasts; also how fast a stop is noticed."""
_LEADING_WAIT_SECONDS = 1.0
_TAIL_DEPTH_BYTES = 64 * 2**20
"""More than a capture that was taken for dead may have written late, which alone would tell of an older end."""
_STOP_PATIENCE_SECONDS = 4.0
"""How long a stop waits for the statement that runs, of the 10 s that a daemon has to end."""

_RETENTION_LOOK_SECONDS = 30.0
_PROVEN_SECONDS = 16.0
"""After so long without an error a session is well though nothing was there to commit: a log that does not answer is
noticed before."""

ALIKE_BEFORE_RUN = 8
"""So many changes that are alike make it likely that more follow; learning a run costs as much as reading a few."""


@dataclass(frozen=True)
class ApplyLimits:
    """Bounds of a window, and how many records one call to Kafka returns at most."""

    rows: int = 10_000
    bytes: int = 8 * 2**20
    fetch: int = 2_000


class ApplyService:
    """One follower's applier. `run` returns when the token is set, and raises only terminal errors."""

    def __init__(
        self,
        open_reader: Callable[[], LogReader],
        target: Target,
        node: str,
        limits: ApplyLimits | None = None,
        while_leading: Callable[[], None] = lambda: None,
        health: Health | None = None,
        meter: ApplyMeter | None = None,
    ) -> None:
        """`node` is the follower's name in the group: an epoch that it leads is not applied to it, and `while_leading`
        is called now and then instead."""
        self._open_reader = open_reader
        self._target = target
        self._node = node
        self._careful_until: TransactionName | None = None
        self._limits = limits or ApplyLimits()
        self._while_leading = while_leading
        self._health = health or Health()
        self._meter = meter or ApplyMeter()

    def run(self, stop: StopToken) -> None:
        work_for_long()
        ended = threading.Event()
        watch = threading.Thread(target=self._interrupt_when_late, args=(stop, ended), name="stop", daemon=True)
        watch.start()
        try:
            run_with_retries(lambda progress: self._session(stop, progress), stop, "apply", self._health.interrupted)
        finally:
            ended.set()

    def _interrupt_when_late(self, stop: StopToken, ended: threading.Event) -> None:
        """A statement may wait for a lock, or for a server that does not answer; a stop does not wait for it."""
        while not ended.is_set():
            if stop.wait(1.0) and not ended.wait(_STOP_PATIENCE_SECONDS):
                self._target.interrupt()
                return

    def _session(self, stop: StopToken, progress: Callable[[], None]) -> None:
        """From the follower's own position until stop or error; every retry starts here again."""
        reader = self._open_reader()
        try:
            while not stop.is_set():
                position = self._await_follower(stop, progress)
                if position is None:
                    return
                log.info("applying", position=str(position), offset=position.next_offset, rows=HOW_ROWS_PASS)
                self._meter.begin(position)
                session = ApplySession(
                    reader, self._target, self._limits, self._node, position, self._careful_until, self._meter,
                    self._target.copied_ahead().get,
                )  # fmt: skip
                began = time.monotonic()
                with suppress(_SingleOutError):
                    while not stop.is_set() and not session.leads:
                        committed = session.step()
                        if committed:
                            progress()
                        if committed or time.monotonic() - began > _PROVEN_SECONDS:
                            self._health.works("applying")
                            self._meter.follows(*session.place())
                        self._health.turn()
                    session.finish()
                self._careful_until = session.careful_until
        except FencedError:
            raise
        except (TerminalError, BlockedError) as error:
            self._target.note_blocked(str(error))
            raise
        finally:
            self._meter.ended()
            self._target.close()
            reader.close()

    def _await_follower(self, stop: StopToken, progress: Callable[[], None]) -> Position | None:
        """The position, once this node is a follower: while it leads, there is nothing to apply. None when stopped."""
        position, told = self._target.open(), False
        while position is None:
            self._target.close()
            if not told:
                log.info("this node leads, or has led and did not rejoin; waiting until it follows")
                told = True
            self._meter.rests()
            self._health.works("leading")
            progress()
            self._while_leading()
            if stop.wait(_LEADING_WAIT_SECONDS):
                return None
            position = self._target.open()
        return position


_value_of = methodcaller("value")


class _SingleOutError(Exception):
    """A window cannot be applied: its transactions are to be applied one at a time, to find which of them."""

    def __init__(self, cause: TerminalError | BlockedError) -> None:
        super().__init__(str(cause))
        self.cause = cause


class ApplySession:
    """State that is void after a lost connection: chain, window, plans."""

    def __init__(
        self,
        reader: LogReader,
        target: Target,
        limits: ApplyLimits,
        node: str,
        position: Position,
        careful_until: TransactionName | None = None,
        meter: ApplyMeter | None = None,
        copied_ahead: Callable[[TableId], TransactionName | None] = lambda _: None,
    ) -> None:
        """Up to `careful_until`, every transaction is committed by itself. `copied_ahead` tells the place before which
        the changes of a table are in its rows already, and are left out."""
        self.careful_until = careful_until
        self._meter = meter or ApplyMeter()
        self._read_to = position.next_offset
        self._piece_changes = 0
        self._stop_at: TransactionName | None = None
        self._copied_ahead = copied_ahead
        self._left_out: dict[str, TransactionName | None] = {}
        self._reader = reader
        self._target = target
        self._limits = limits
        self._node = node
        self.leads = False
        """Whether the log has named this node as its leader; nothing after that is for it."""
        self._chain = Chain(position.epoch, position.commit_lsn)
        self._joiner = PartJoiner()
        self._window = Window()
        self._plans: dict[str, TablePlan] = {}
        self._names: dict[str, tuple[str, ...]] = {}
        self._replay = Replay(target, self._plans)
        self._schemas: dict[str, TableSchema] = {}
        self._shapes: dict[TableId, str] = {}
        """Of each table the one that holds at the place in the log that was read to."""
        self._sequences: dict[TableId, int] = {}
        self.position = position
        """The newest transaction that is committed."""
        self._epoch_ends: list[Position] = []
        self._look_again_at = 0.0
        self._hint_in_doubt = True
        self._batches = BatchReader() if ChangeReader is not None else None
        self._leader = position.leader
        self._run: Run | None = None
        self._kind: tuple[str, str, int] | None = None
        self._alike = 0
        self._in_pieces = False
        """Whether the follower's open transaction holds a part of a leader transaction that is not complete."""
        self._ahead: Sequence[LogRecord] = ()
        """Read while the follower worked, and not looked at."""
        self._ahead_error: CdcError | None = None
        self._more_follow = False
        """Whether as many records came as were asked for."""
        self._give_back = at_most_every(GIVE_BACK_SECONDS, give_back)
        reader.seek(position.next_offset)

    def step(self) -> bool:
        """Read what is there, apply what is complete. True when something was committed."""
        try:
            records = self._read()
        except CdcError:
            self._flush_what_is_complete()
            raise
        if not records and self._window.position is None and not self._is_full():
            self._give_back()
            return False
        began = time.monotonic()
        self._look_at_retention()
        self._note_read(records)
        try:
            return self._take_in(records)
        finally:
            self._meter.busy_seconds += time.monotonic() - began

    def _note_read(self, records: Sequence[LogRecord]) -> None:
        if records:
            self._read_to = (records[-1].offset() or 0) + 1
            self._meter.records += len(records)

    def place(self) -> tuple[int, int]:
        """The offset before which all is applied, and where the log ends, as far as the broker has told."""
        begun = self._window.items or self._in_pieces or self._chain.in_transaction
        done = self.position.next_offset if begun else self._read_to
        return done, max(done, self._reader.known_end())

    def _take_in(self, records: Sequence[LogRecord]) -> bool:
        """True when something was committed."""
        try:
            for record in self._one_at_a_time(records):
                if not self._accept(record):
                    return False
                if self._stop_at is not None and self._complete_to(self._stop_at):
                    self._flush_what_is_complete()
                    self._reader.seek(self.position.next_offset)
                    return True
                if self.leads:
                    self._flush_what_is_complete()
                    return True
                if self.careful_until is not None:
                    self._flush_what_is_complete()
        except CdcError:
            # What came before the record that cannot be taken is complete and goes in.
            self._flush_what_is_complete()
            raise
        window, full = self._window, self._is_full()
        if window.position is not None and (full or not self._more_follow):
            self._flush_complete(window.position, self._read_ahead)
            return True
        if full:
            self._in_pieces = True
            items, changes = window.take_all()
            self._piece_changes += changes
            self._apply_piece(items)
        return False

    def follow_to(self, name: TransactionName) -> None:
        """Apply all up to this transaction of the log, and nothing after it."""
        self._stop_at = name
        while self.position.name < name:
            try:
                self.step()
            except _SingleOutError as error:  # which transaction it is helps nobody here
                raise error.cause from error

    def _complete_to(self, name: TransactionName) -> bool:
        position = self._window.position
        return position is not None and position.name >= name

    def finish(self) -> None:
        """Commit what is complete; what is half done is left to the next start."""
        self._flush_what_is_complete()
        self._target.rollback()

    def _flush_what_is_complete(self) -> None:
        if self._window.position is not None:
            self._flush_complete(self._window.position)

    # accepting

    def _read(self) -> Sequence[LogRecord]:
        ahead, self._ahead = self._ahead, ()
        if ahead or self._is_full():
            return ahead
        try:
            if self._ahead_error is not None:
                raise self._ahead_error
            return self._consume(_IDLE_WAIT_SECONDS if self._window.position is None else 0.0)
        except LogError:
            first, end = self._reader.watermarks()
            if not self._hint_in_doubt or first == end:
                raise
            self._ahead_error = None
            self._read_from_beginning()
            return ()

    def _consume(self, timeout: float) -> Sequence[LogRecord]:
        records = self._reader.consume(self._limits.fetch, timeout)
        self._more_follow = len(records) == self._limits.fetch
        return records

    def _is_full(self) -> bool:
        return self._window.changes >= self._limits.rows or self._window.size >= self._limits.bytes

    def _read_ahead(self) -> bool:
        """While the follower works on a window, when all that was read is taken in: what the compiled reader takes of
        the next records is in the window then. Whether more may be had."""
        if self.careful_until is not None or self._stop_at is not None:
            return False
        if self._ahead or self._ahead_error is not None or self._is_full():
            return False
        try:
            records = self._consume(0.0)
        except CdcError as error:
            self._ahead_error = error
            return False
        at = 0
        while at < len(records) and (taken := self._gather_batch(records, at)):
            at += taken
        self._note_read(records[:at])
        self._ahead = records[at:]
        return self._more_follow

    def _look_at_retention(self) -> None:
        now = time.monotonic()
        if now < self._look_again_at:
            return
        self._look_again_at = now + _RETENTION_LOOK_SECONDS
        with suppress(RetryableError):
            first, end = self._reader.watermarks()
            if removal_is_near(self._read_to, first, end, self._limits.fetch):
                log.warning(
                    "the log removes soon what is not applied yet: raise retention.ms of the topic",
                    offset=self._read_to,
                    first_offset=first,
                    end_offset=end,
                )

    def _read_from_beginning(self) -> None:
        """The stored offset is only a hint: where it does not fit, the chain decides from the beginning on. Shapes that
        came where it led are not kept, which would be stored with a transaction from before them."""
        log.warning("stored offset does not fit the log, reading from its beginning")
        self._hint_in_doubt = False
        self._joiner = PartJoiner()
        self._schemas.clear()
        self._window.schemas.clear()
        self._check_tail()
        first, _ = self._reader.watermarks()
        self._reader.seek(first)

    def _check_tail(self) -> None:
        """A log that ends before this follower's position would be read to its end, and never go on."""
        tail = self._reader.read_tail(depth_bytes=_TAIL_DEPTH_BYTES)
        if tail is not None and (tail.epoch, tail.commit_lsn) < (self._chain.epoch, self._chain.commit_lsn):
            raise LogError(
                f"the log ends at {tail.end_lsn}, this follower holds {Lsn(self._chain.commit_lsn)} already: "
                "acknowledged records are gone",
                f"the topic was replaced or cut: {NEW_GROUP}",
                f"log offset {tail.next_offset}",
            )

    def _one_at_a_time(self, records: Sequence[LogRecord]) -> Iterator[LogRecord]:
        """Those that must be looked at one by one; what can be taken together is gathered on the way."""
        at = 0
        while at < len(records):
            taken = self._gather_batch(records, at) or self._gather_run(records, at)
            if not taken:
                yield records[at]
            at += taken or 1

    def _gather_batch(self, records: Sequence[LogRecord], at: int) -> int:
        """How many records from `at` on were taken by the compiled reader; they are in the window then."""
        if (
            self._batches is None
            or self._run is not None
            or self.careful_until is not None
            or self._stop_at is not None
        ):
            return 0
        gathered = self._batches.read(records, at, self._chain, self._leader)
        if gathered is None:
            return 0
        self._hint_in_doubt = False
        if gathered.whole is not None and gathered.position is not None:
            self._window.add_batch(gathered.whole)
            self._in_pieces = False
            self._window.close_transaction(gathered.position)
        if gathered.begun is not None:
            self._window.add_batch(gathered.begun)
        return gathered.records

    def _gather_run(self, records: Sequence[LogRecord], at: int) -> int:
        """How many records from `at` on go on with the run; they are in the window then."""
        run = self._run
        if run is None:
            return 0
        first = self._chain.seq + 1
        rows, size = run.rows(map(_value_of, islice(records, at, None)), first)
        op, fingerprint, commit_lsn = run.op, run.fingerprint, run.commit_lsn
        changes: list[Item] = [
            (op, fingerprint, None, row, False, commit_lsn, seq, record.offset() or 0)
            for seq, row, record in zip(count(first), rows, islice(records, at, None), strict=False)
        ]
        self._window.add_all(changes, len(changes), size)
        self._chain.go_on(len(changes))
        if not changes:
            self._run = None
        return len(changes)

    def _accept(self, message: LogRecord) -> bool:
        """False when the records after this one are not to be looked at, because the reader was moved."""
        offset = message.offset() or 0
        value = message.value() or b""
        event, meta = parse(value, offset)
        try:
            kind = kind_of(event, meta) if "kind" in meta else None
            if kind == "part":
                if not self._joiner.pending and is_later_part(meta):
                    return True  # begins before the place where we began; if it was needed the chain tells
                joined = self._joiner.add(meta, event["message"]["content"])
                if joined is None:
                    return True
                value = joined
                event, meta = parse(value, offset)
                kind = kind_of(event, meta, joined=True)
            if kind == "schema":
                self._learn(table_schema(meta))
                return True
            if kind == "runbook":
                return True
            epoch, commit_lsn, prev, seq = meta["epoch"], meta["commit_lsn"], meta["prev"], meta["seq"]
            if kind or not (type(epoch) is type(commit_lsn) is type(prev) is type(seq) is int and seq > 0):
                check_link(meta)
            last = "last" in meta
            prev_epoch = meta.get("prev_epoch") if kind == "epoch" else None
            if self._chain.accept(epoch, commit_lsn, prev, seq, last, prev_epoch) is Verdict.NEXT:
                self._hint_in_doubt = False
                if kind == "epoch":
                    self._drop_unfinished()
                    self._epoch_ends.append(self._window.position or self.position)
                    self.leads = meta["leader"] == self._node
                self._gather(event, meta, value, offset)
                if last:
                    self._in_pieces = False
                    position = position_after(event, meta, offset)
                    self._leader = position.leader
                    self._window.close_transaction(position)
        except ChainGapError as gap:
            if self._hint_in_doubt:
                self._read_from_beginning()
                return False
            raise ChainGapError(gap.what, gap.remedy, f"log offset {offset}") from gap
        except LogError as error:
            raise LogError(error.what, error.remedy, f"log offset {offset}") from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise unfit(offset, error) from error
        return True

    def _drop_unfinished(self) -> None:
        """A new epoch begins: what the one before left unfinished was never committed there."""
        self._window.drop_unfinished()
        if self._in_pieces:
            self._piece_changes = 0
            self._target.rollback()

    def _learn(self, schema: TableSchema) -> None:
        """A shape that comes back after another one may have no place any more: there is no plan for it then."""
        fingerprint = schema.fingerprint
        if self._shapes.get(schema.table, fingerprint) != fingerprint:
            self._names.pop(fingerprint, None)
            self._run = None
            if self._batches is not None:
                self._batches.forget(fingerprint)
        self._shapes[schema.table] = fingerprint
        if fingerprint not in self._schemas:
            self._schemas[fingerprint] = schema
            self._window.schemas.append(schema)

    def _gather(self, event: dict[str, Any], meta: dict[str, Any], value: bytes, offset: int) -> None:
        window = self._window
        window.size += len(value)
        op = event["op"]
        if op == "m":
            if event["message"]["prefix"] == SEQUENCES_PREFIX:
                self._note_sequences(event["message"]["content"], offset)
            return
        if op == "t":
            self._schema(meta["rel"])
            statement = truncation(meta)
            if statement is not None:
                kept = tuple(t for t in statement.tables if not self._is_before(self._copied_ahead(t), meta))
                if kept:
                    spares = len(kept) < len(statement.tables)
                    window.add(replace(statement, tables=kept, spares_others=spares))
            return
        if op not in _ROW_OPERATIONS:
            raise MalformedError("an operation that this version does not know")
        fingerprint = meta["rel"]
        names = self._names.get(fingerprint)
        if names is None:
            if self._is_left_out(fingerprint, meta):
                return
            names = self._make_plan(fingerprint)
        before, after = event["before"], event["after"]
        is_partial = "unchanged" in meta
        plan = self._plans[fingerprint]
        whole = before is None and op != "d" and not is_partial and type(after) is dict and tuple(after) == names
        if not whole:
            check_row(plan.schema, event, meta.get("unchanged"))
        usual = (whole or op == "d") and self._batches is not None and self._batches.learn(value, event, plan, names)
        if whole and not usual and "last" not in meta:
            self._look_for_run(event, meta, value, names)
        window.add((op, fingerprint, before, after, is_partial, meta["commit_lsn"], meta["seq"], offset))

    def _look_for_run(self, event: dict[str, Any], meta: dict[str, Any], value: bytes, names: tuple[str, ...]) -> None:
        kind = (event["op"], meta["rel"], meta["commit_lsn"])
        self._alike = self._alike + 1 if kind == self._kind else 0
        self._kind = kind
        if self._alike >= ALIKE_BEFORE_RUN:
            self._run, self._alike = Run.of(value, event, names), 0

    def _note_sequences(self, content: Any, offset: int) -> None:
        try:
            self._sequences.update(sequence_values(content))
        except (TypeError, ValueError):  # every role of the leader may write a message with any prefix
            log.warning("a message with the prefix of ours holds something else, ignored", offset=offset)

    def _schema(self, fingerprint: Any) -> TableSchema:
        if type(fingerprint) is not str or not _FINGERPRINT.fullmatch(fingerprint):
            raise MalformedError("rel is not the name of a table shape")
        schema = self._schemas.get(fingerprint) or self._target.known_schema(fingerprint)
        if schema is None:
            raise LogError(f"a change refers to the unknown table shape {fingerprint}", "bootstrap this follower anew")
        return schema

    def _is_left_out(self, fingerprint: Any, meta: dict[str, Any]) -> bool:
        """Asked until there is a plan: then the place is passed, and changes only come later ones."""
        if fingerprint not in self._left_out:
            self._left_out[fingerprint] = self._copied_ahead(self._schema(fingerprint).table)
        return self._is_before(self._left_out[fingerprint], meta)

    @staticmethod
    def _is_before(name: TransactionName | None, meta: dict[str, Any]) -> bool:
        return name is not None and (meta["epoch"], meta["commit_lsn"]) < name

    def _make_plan(self, fingerprint: str) -> tuple[str, ...]:
        """The columns of the rows of a table shape, once there is a plan for it."""
        schema = self._schema(fingerprint)
        self._plans[fingerprint] = self._target.plan(schema, self._window.schemas)
        self._shapes[schema.table] = fingerprint
        names = self._names[fingerprint] = names_in_rows(schema)
        return names

    # applying

    def _flush_complete(self, position: Position, meanwhile: Callable[[], bool] = lambda: False) -> None:
        items, changes, size, schemas = self._window.take_complete()
        try:
            self._apply(items, meanwhile)
            if self._sequences:
                self._target.store_sequences(self._sequences)
                self._sequences = {}
            if self._epoch_ends:
                self._target.store_epoch_ends(self._epoch_ends)
                self._epoch_ends = []
            failpoints.hit(failpoints.APPLY_BEFORE_COMMIT)
            self._target.commit(position, schemas)
        except (FencedError, LogError):
            raise
        except (TerminalError, BlockedError) as error:
            self._single_out(error, position.name)
        self.position = position
        self._meter.committed(position, changes + self._piece_changes, size)
        self._piece_changes = 0
        failpoints.hit(failpoints.APPLY_AFTER_COMMIT)
        if self.careful_until is not None and position.name >= self.careful_until:
            self.careful_until = None

    def _apply_piece(self, items: list[Item]) -> None:
        """Of the one transaction that is open: all before it is committed."""
        try:
            self._apply(items, self._read_ahead)
        except (FencedError, LogError):
            raise
        except (TerminalError, BlockedError) as error:
            self._single_out(error, TransactionName(self._chain.epoch, Lsn(self._chain.open_commit_lsn)))

    def _single_out(self, error: TerminalError | BlockedError, name: TransactionName) -> NoReturn:
        """First everything up to `name` once more, each transaction by itself: those before the culprit get applied."""
        if self.careful_until is None:
            self.careful_until = name
            log.info("a change cannot be applied, looking for its transaction", up_to=str(name))
            raise _SingleOutError(error) from error
        if isinstance(error, BlockedError):
            raise error
        raise self._refused(error, name) from error

    def _refused(self, error: TerminalError, name: TransactionName) -> DivergenceError:
        """The same with the transaction's name, as `cdc skip` takes it; all before that one is committed."""
        where = f"{error.where or self._node}, position {name}"
        remedy = (
            "the follower's rows differ from the leader's: make them equal and start again, or leave this transaction "
            f"out (cdc skip --follower {self._node} --position {name} --reason ...), or bootstrap this follower anew"
        )
        return DivergenceError(error.what, remedy, where, key=getattr(error, "key", ""))

    def _apply(self, items: list[Item], meanwhile: Callable[[], bool]) -> None:
        if self.careful_until is not None or self._stop_at is not None:
            self._target.wait_for_locks()
        self._replay.apply(items, meanwhile)
