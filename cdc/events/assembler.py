"""HOT PATH: frames of a replication connection to records of the log, transaction by transaction.

Holds the relation cache of one connection, counts `seq`, and links each transaction to the one before.
Which event is the last of its transaction is known only at COMMIT, so one record is held back while a
transaction is open. How a record looks is the encoder's business (cdc/log/envelope.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from cdc.errors import NEW_GROUP, LogError, ProtocolError
from cdc.events.table import Column, ReplicaIdentity, TableId, TableSchema
from cdc.protocol.frames import XLOG_DATA, XLOG_HEADER_SIZE, PrimaryKeepalive, xlog_start
from cdc.protocol.lsn import Lsn
from cdc.protocol.pgoutput import (
    BEGIN,
    COMMIT,
    DELETE,
    INSERT,
    UPDATE,
    LogicalMessage,
    Relation,
    Row,
    Truncate,
    TypeName,
    decode,
    decode_begin,
    decode_commit,
    decode_delete,
    decode_insert,
    decode_update,
    row_head,
)

Record = tuple[bytes | None, bytes]

_ROWS = (INSERT, UPDATE, DELETE)

DESCRIBE_PREFIX = "cdc.describe"
"""A logical message with it asks to describe every relation again, for a reader that starts here."""


class TableEncoder(Protocol):
    """Encodes changes of one shape of a table; see cdc/log/envelope.py."""

    def whole_rows(self, frames: list[bytes], at: int, seq: int, records: list[Record]) -> int: ...

    def join(self, transactions: Any, oid: int) -> None: ...

    def insert(self, row: Row, lsn: int, seq: int) -> Record: ...

    def update(self, kind: int, old: Row | None, row: Row, lsn: int, seq: int) -> Record: ...

    def delete(self, kind: int, old: Row, lsn: int, seq: int) -> Record: ...

    def truncate(self, statement: dict[str, Any] | None, lsn: int, seq: int) -> Record: ...


class WholeTransactions(Protocol):
    """Encodes short transactions whose rows all arrive whole; see cdc/log/whole_rows.pyx."""

    commit_lsn: int
    end_lsn: int
    transactions: int

    def forget(self, oid: int) -> None: ...

    def forget_all(self) -> None: ...

    def encode(
        self, frames: list[bytes], at: int, commit_lsn: int, end_lsn: int, now_us: int, records: list[Record]
    ) -> int: ...


class Finish(Protocol):
    """Marks a record as its transaction's final one; see cdc/log/envelope.py."""

    ending: bytes

    def __call__(self, record: Record, end_lsn: int) -> Record: ...


class Encoder(Protocol):
    """Encodes what is not a change of a row; see cdc/log/envelope.py."""

    def begin(self, xid: int, commit_lsn: int, prev: int, committed_at_us: int, now_us: int) -> None: ...

    def whole_transactions(self, ending: bytes) -> WholeTransactions | None: ...

    def table(self, schema: TableSchema) -> TableEncoder: ...

    def message(self, prefix: str, content: bytes, lsn: int, seq: int) -> Record: ...

    def schema(self, schema: TableSchema) -> Record: ...

    def mark(self, seq: int) -> Record: ...


@dataclass(frozen=True, slots=True)
class Resume:
    """What the log holds already: whole transactions up to `commit_lsn`, and the first `partial_seq` events
    of the transaction `partial_commit_lsn` (0 when there is none).

    `again_lsn` is a commit LSN that the leader is going to send once more (0 when it is not): where it does not,
    its WAL is not the one that the log was written from."""

    commit_lsn: Lsn
    end_lsn: Lsn
    partial_commit_lsn: Lsn
    partial_seq: int
    again_lsn: int = 0


class _Relation:
    """A relation of this connection, with its columns and encoder prepared."""

    __slots__ = ("described", "encoder", "names", "schema")

    def __init__(self, schema: TableSchema, encoder: TableEncoder) -> None:
        self.schema = schema
        self.encoder = encoder
        self.names = tuple(column.name for column in schema.columns)
        self.described = False


class Assembler:
    """One connection's frames in, records out. Not thread-safe.

    After a `ProtocolError` or `LogError` it cannot be used any more.
    """

    def __init__(
        self,
        encoder: Encoder,
        finished: Finish,
        type_names: Mapping[int, str],
        resume: Resume,
        now_us: Callable[[], int],
    ) -> None:
        """`finished` marks a record as its transaction's final one; `type_names` names the built-in types."""
        self._encoder = encoder
        self._finished = finished
        self._type_names = dict(type_names)
        self._resume = resume
        self._now_us = now_us
        self._relations: dict[int, _Relation] = {}
        self._whole = encoder.whole_transactions(finished.ending)
        self._held: list[Record] = []
        self._open_lsn = 0
        self._skipping = False
        self._seq = 0
        self._known_seq = 0
        self._again_lsn = resume.again_lsn
        self._prev = int(resume.commit_lsn)
        self._complete_lsn = int(resume.end_lsn)
        self._read_at_us = now_us()
        self.received_lsn = int(resume.end_lsn)
        """Everything before it was received; not a reason to confirm anything."""
        self.streamed_lsn = 0
        """The same, of this connection alone: it may be sent again what an earlier one had received."""
        self.reply_requested = False
        """Set by a keepalive that asks for a status; the caller clears it."""
        self.transactions = 0
        """Transactions that were completed and not skipped."""

    @property
    def complete_lsn(self) -> int:
        """End LSN of the newest transaction whose records were all handed out; what the slot may confirm
        once they are durable."""
        return self._complete_lsn

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction has begun that is not complete."""
        return self._open_lsn != 0

    def feed(self, frames: list[bytes]) -> list[Record]:
        """The records that are ready after these frames, in log order."""
        if not all(frames):
            raise ProtocolError("an empty frame")
        records, self._held = self._held, []
        append = records.append
        relations = self._relations
        self._read_at_us = self._now_us()
        seq = self._seq
        at, count = 0, len(frames)
        while at < count:
            frame = frames[at]
            at += 1
            if frame[0] != XLOG_DATA:
                self._keepalive(frame)
                continue
            kind = frame[XLOG_HEADER_SIZE] if len(frame) > XLOG_HEADER_SIZE else 0
            if kind in _ROWS:
                if self._skipping:
                    continue
                seq += 1
                if seq <= self._known_seq:
                    continue
                lsn, oid = row_head(frame)
                relation = relations.get(oid)
                if relation is None or not relation.described:
                    relation = self._describe(oid, records)
                taken = relation.encoder.whole_rows(frames, at - 1, seq, records)
                if taken:
                    at += taken - 1
                    seq += taken - 1
                    continue
                names = relation.names
                try:
                    if kind == INSERT:
                        append(relation.encoder.insert(decode_insert(frame, XLOG_HEADER_SIZE, names), lsn, seq))
                    elif kind == UPDATE:
                        old_kind, old, row = decode_update(frame, XLOG_HEADER_SIZE, names)
                        append(relation.encoder.update(old_kind, old, row, lsn, seq))
                    else:
                        old_kind, row = decode_delete(frame, XLOG_HEADER_SIZE, names)
                        append(relation.encoder.delete(old_kind, row, lsn, seq))
                except ProtocolError as error:
                    where = f"table {relation.schema.table} in transaction {Lsn(self._open_lsn)}"
                    raise ProtocolError(error.what, error.remedy, where) from error
            elif kind == BEGIN:
                self._seq = seq
                taken = self._take_whole(frames, at - 1, records)
                if taken:
                    at += taken - 1
                    continue
                self._begin(frame)
                seq = 0
            elif kind == COMMIT:
                self._seq = seq
                self._commit(frame, records)
                seq = 0
            else:
                self._seq = seq
                self._other(frame, records)
                seq = self._seq
        self._seq = seq
        if seq and not self._open_lsn:
            raise _outside("a change")
        if self._open_lsn and seq > self._known_seq and records:
            self._held.append(records.pop())
        return records

    def _take_whole(self, frames: list[bytes], at: int, records: list[Record]) -> int:
        """Append the records of short transactions of whole rows only that begin at `frames[at]`. How many of the
        frames these were: none where this is not compiled, or the first of them needs a closer look."""
        whole, resume = self._whole, self._resume
        if whole is None or self._open_lsn or self._seq or self._prev < resume.partial_commit_lsn or self._again_lsn:
            return 0
        taken = whole.encode(frames, at, self._prev, self._complete_lsn, self._read_at_us, records)
        if taken:
            self._prev, self._complete_lsn = whole.commit_lsn, whole.end_lsn
            self.transactions += whole.transactions
            self._receive(whole.end_lsn)
        return taken

    def mark(self) -> Record:
        """A record that lets the slot advance to `received_lsn`, over what published nothing."""
        if self._open_lsn or self.received_lsn <= self._complete_lsn:
            raise AssertionError("nothing to mark")
        commit_lsn, now_us = self.received_lsn - 1, self._now_us()
        self._encoder.begin(0, commit_lsn, self._prev, now_us, now_us)
        self._advance(commit_lsn, self.received_lsn)
        return self._finished(self._encoder.mark(1), self._complete_lsn)

    def _other(self, frame: bytes, records: list[Record]) -> None:
        message = decode(frame, XLOG_HEADER_SIZE)
        match message:
            case Relation():
                self._relation(message)
            case TypeName():
                self._type_names[message.oid] = _qualified(message.schema, message.name)
            case Truncate():
                self._truncate(message, xlog_start(frame), records)
            case LogicalMessage():
                self._message(message, records)
            case _:
                pass  # Origin: the log does not say where a change was born. StreamAbort: nothing streams.

    def _begin(self, frame: bytes) -> None:
        if self._open_lsn:
            raise ProtocolError("a transaction begins inside another one")
        if self._seq:
            raise _outside("a change")
        commit_lsn, committed_at_us, xid = decode_begin(frame, XLOG_HEADER_SIZE)
        if not commit_lsn:
            raise ProtocolError("a transaction without a commit LSN begins")
        self._open_lsn = commit_lsn
        resume = self._resume
        if commit_lsn <= resume.commit_lsn:
            self._skipping = True
            self._skipped(commit_lsn)
            return
        self._check_history()
        self._known_seq = resume.partial_seq if commit_lsn == resume.partial_commit_lsn else 0
        self._encoder.begin(xid, commit_lsn, self._prev, committed_at_us, self._read_at_us)

    def _skipped(self, commit_lsn: int) -> None:
        if commit_lsn == self._again_lsn:
            self._again_lsn = 0

    def _check_history(self) -> None:
        """What was sent so far holds everything that the log and this leader must have in common."""
        if self._again_lsn:
            raise LogError(
                f"the leader's WAL does not hold transaction {Lsn(self._again_lsn)}, which is in the log: the leader "
                "was restored to an older state, and has written since",
                NEW_GROUP,
            )

    def _commit(self, frame: bytes, records: list[Record]) -> None:
        commit_lsn, end_lsn, _ = decode_commit(frame, XLOG_HEADER_SIZE)
        if not self._open_lsn or commit_lsn != self._open_lsn:
            raise ProtocolError("a commit that does not belong to the open transaction")
        if self._seq:
            if self._seq <= self._known_seq:
                raise self._too_many(commit_lsn)
            records[-1] = self._finished(records[-1], end_lsn)
            self._advance(commit_lsn, end_lsn)
        self._open_lsn, self._skipping, self._seq, self._known_seq = 0, False, 0, 0
        self._receive(end_lsn)

    def _too_many(self, commit_lsn: int) -> LogError:
        return LogError(
            f"the log holds {self._known_seq} events of transaction {Lsn(commit_lsn)}, the leader has {self._seq}",
            f"the log does not belong to this leader: {NEW_GROUP}",
        )

    def _advance(self, commit_lsn: int, end_lsn: int) -> None:
        if commit_lsn <= self._prev or end_lsn <= self._complete_lsn:
            raise ProtocolError(f"transaction {Lsn(commit_lsn)} follows {Lsn(self._prev)}: not in commit order")
        self._prev, self._complete_lsn = commit_lsn, end_lsn
        self.transactions += 1

    def _receive(self, lsn: int) -> None:
        self.streamed_lsn = max(self.streamed_lsn, lsn)
        self.received_lsn = max(self.received_lsn, lsn)

    def _keepalive(self, frame: bytes) -> None:
        keepalive = PrimaryKeepalive.decode(frame)
        if not self._open_lsn:
            self._receive(keepalive.end_lsn)
        self.reply_requested |= keepalive.reply_requested

    def _relation(self, message: Relation) -> None:
        columns = tuple(Column(c.name, self._type_name(c.type_oid), c.typmod, c.key) for c in message.columns)
        schema = TableSchema(TableId(message.schema, message.name), ReplicaIdentity(message.identity), columns)
        known = self._relations.get(message.oid)
        if known is None or known.schema != schema:
            self._relations[message.oid] = _Relation(schema, self._encoder.table(schema))
            if self._whole is not None:
                self._whole.forget(message.oid)

    def _type_name(self, oid: int) -> str:
        name = self._type_names.get(oid)
        if name is None:
            raise ProtocolError(f"type {oid} was not announced before a relation that uses it")
        return name

    def _describe(self, oid: int, records: list[Record]) -> _Relation:
        relation = self._relations.get(oid)
        if relation is None:
            raise ProtocolError(f"relation {oid} was not announced before its change")
        if not self._open_lsn:
            raise _outside("a change")
        if not relation.described:
            records.append(self._encoder.schema(relation.schema))
            relation.described = True
            if self._whole is not None:
                relation.encoder.join(self._whole, oid)
        return relation

    def _truncate(self, message: Truncate, lsn: int, records: list[Record]) -> None:
        if self._skipping:
            return
        relations = [self._describe(oid, records) for oid in message.relation_oids]
        statement = {
            "tables": [list(relation.schema.table) for relation in relations],
            "cascade": message.cascade,
            "restart_identity": message.restart_identity,
        }
        for relation in relations:
            self._seq += 1
            if self._seq > self._known_seq:
                final = relation is relations[-1]
                records.append(relation.encoder.truncate(statement if final else None, lsn, self._seq))

    def _message(self, message: LogicalMessage, records: list[Record]) -> None:
        if not message.transactional:
            self._message_of_its_own(message, records)
        elif not self._open_lsn:
            raise _outside("a transactional message")
        elif not self._skipping:
            self._seq += 1
            if self._seq > self._known_seq:
                records.append(self._encoder.message(message.prefix, message.content, message.lsn, self._seq))
        if message.prefix == DESCRIBE_PREFIX:
            for relation in self._relations.values():
                relation.described = False
            if self._whole is not None:
                self._whole.forget_all()

    def _message_of_its_own(self, message: LogicalMessage, records: list[Record]) -> None:
        """Named by the last byte of its WAL record: `lsn` is the one after it, where a commit may start."""
        if self._open_lsn:
            raise ProtocolError("a message of its own inside a transaction")
        commit_lsn = message.lsn - 1
        if commit_lsn <= self._resume.commit_lsn:
            self._skipped(commit_lsn)
        else:
            self._check_history()
            self._encoder.begin(0, commit_lsn, self._prev, self._read_at_us, self._read_at_us)
            record = self._encoder.message(message.prefix, message.content, message.lsn, 1)
            self._advance(commit_lsn, message.lsn)
            records.append(self._finished(record, message.lsn))
        self._receive(message.lsn)


def _outside(what: str) -> ProtocolError:
    return ProtocolError(f"{what} outside of a transaction")


def _qualified(schema: str, name: str) -> str:
    return f"{schema}.{name}"
