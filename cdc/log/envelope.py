"""HOT PATH: events to records of the log (ops/reference/event-format.md), key and value as bytes.

What is the same for all rows of a relation, or of a transaction, is encoded once; per row remain one
`orjson.dumps` of the row, one of its key, and one formatting. The `cdc` object is the last member of every
value, so that the final event of a transaction is marked as such by replacing the last two bytes.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from typing import Any

import orjson

from cdc.errors import ProtocolError
from cdc.events.table import TableId, TableSchema
from cdc.log.compiled import WholeRows, WholeTransactions
from cdc.protocol.pgoutput import OLD_KEY, OLD_ROW, Row

Record = tuple[bytes | None, bytes]
"""Key and value."""

_dumps = orjson.dumps

_TIMES = b',"ts_ms":%d,"ts_us":%d,"txId":%b},"ts_ms":%d,"transaction":{"id":"%d:%d","total_order":'
_CHAIN = b',"cdc":{"epoch":%d,"commit_lsn":%d,"prev":%d,"seq":'
_INSERT = b'%b%d%b%d},"before":null,"after":%b%b%d%b'
_UPDATE = b'%b%d%b%d},"before":%b,"after":%b%b%d%b'
_DELETE = b'%b%d%b%d},"before":%b,"after":null%b%d%b'
_TRUNCATE = b'%b%d%b%d},"before":null,"after":null%b%d%b'
"""Head and WAL position, times and seq, rows, chain and seq, tail."""


class Finisher:
    """Marks records as the final ones of their transactions. Each says who led, if that is given, so that the log's end
    tells it to anybody."""

    def __init__(self, leader: str = "") -> None:
        self.ending = b',"leader":%b}}' % _dumps(leader) if leader else b"}}"
        """What stands after the end LSN."""

    def __call__(self, record: Record, end_lsn: int) -> Record:
        key, value = record
        return key, b'%b,"last":true,"end_lsn":%d%b' % (value[:-2], end_lsn, self.ending)


finished = Finisher()


class Envelope:
    """Encodes the events of one session of capture. Holds the transaction that is open, one at a time."""

    __slots__ = (
        "_commit_lsn",
        "_committed_at_us",
        "_epoch",
        "_now_ms",
        "_prev",
        "_source",
        "_xid",
        "chain",
        "times",
    )

    def __init__(self, group: str, database: str, version: str, epoch: int) -> None:
        self._source = {
            "version": version,
            "connector": "postgresql",
            "name": group,
            "db": database,
            "snapshot": "false",
        }
        self._epoch = epoch
        self.begin(0, 0, 0, 0, 0)

    def begin(self, xid: int, commit_lsn: int, prev: int, committed_at_us: int, now_us: int) -> None:
        """What follows belongs to this transaction. `xid` is 0 where there is none."""
        self._xid, self._commit_lsn, self._prev = xid, commit_lsn, prev
        self._committed_at_us, self._now_ms = committed_at_us, now_us // 1000
        self.times = _TIMES % (
            committed_at_us // 1000,
            committed_at_us,
            b"%d" % xid if xid else b"null",
            now_us // 1000,
            xid,
            commit_lsn,
        )
        self.chain = _CHAIN % (self._epoch, commit_lsn, prev)

    def whole_transactions(self, ending: bytes) -> WholeTransactions | None:
        """What encodes short transactions at once; None where it is not compiled."""
        return None if WholeTransactions is None else WholeTransactions(self._epoch, ending)

    def table(self, schema: TableSchema) -> TableEncoder:
        """The encoder for changes of `schema`; stays valid over transactions."""
        return TableEncoder(self, schema, self._source)

    def message(self, prefix: str, content: bytes, lsn: int, seq: int) -> Record:
        """A logical message of the open transaction."""
        key = _dumps({"prefix": prefix})
        return key, self._message(prefix, b64encode(content).decode("ascii"), lsn, self._link(seq), seq)

    def schema(self, schema: TableSchema) -> Record:
        """Describes a relation; not numbered."""
        cdc = {
            "kind": "schema",
            "epoch": self._epoch,
            "commit_lsn": self._commit_lsn,
            "rel": schema.fingerprint,
            "schema": schema.to_json(),
        }
        return _table_key(schema.table), self._message("cdc.schema", "", self._commit_lsn, cdc, None)

    def mark(self, seq: int) -> Record:
        """Says that nothing was published up to the end of the open transaction."""
        return None, self._message("cdc.mark", "", self._commit_lsn, {"kind": "mark", **self._link(seq)}, seq)

    def epoch(
        self, leader: str, system_id: str, timeline: int, slot: str, prev_epoch: int, why: Mapping[str, str | None]
    ) -> Record:
        """Says who leads from here on; `why` names the promotion, nothing at the beginning of the log."""
        facts = {"leader": leader, "system_id": system_id, "timeline": timeline, "slot": slot, "prev_epoch": prev_epoch}
        cdc = {"kind": "epoch", **self._link(1), **facts, **why}
        return None, self._message("cdc.epoch", "", self._commit_lsn, cdc, 1)

    def runbook(self, facts: Mapping[str, str | int | None]) -> Record:
        """What an operator's tool does to the group; not numbered, and changes nothing for a reader."""
        cdc = {"kind": "runbook", "epoch": self._epoch, "commit_lsn": self._commit_lsn, **facts}
        return None, self._message("cdc.runbook", "", self._commit_lsn, cdc, None)

    def _link(self, seq: int) -> dict[str, Any]:
        return {"epoch": self._epoch, "commit_lsn": self._commit_lsn, "prev": self._prev, "seq": seq}

    def _message(self, prefix: str, content: str, lsn: int, cdc: dict[str, Any], seq: int | None) -> bytes:
        committed_at_us = self._committed_at_us
        times = {"lsn": int(lsn), "ts_ms": committed_at_us // 1000, "ts_us": committed_at_us, "txId": self._xid or None}
        transaction = {"id": f"{self._xid}:{self._commit_lsn}", "total_order": seq} if seq else None
        return _dumps(
            {
                "op": "m",
                "source": {**self._source, "schema": "", "table": "", **times},
                "ts_ms": self._now_ms,
                "transaction": transaction,
                "message": {"prefix": prefix, "content": content},
                "cdc": cdc,
            }
        )


class TableEncoder:
    """Encodes changes of one shape of a table into the transaction that is open in its envelope."""

    __slots__ = (
        "_delete_head",
        "_envelope",
        "_insert_head",
        "_key_columns",
        "_key_head",
        "_key_name",
        "_names",
        "_tail",
        "_truncate_head",
        "_update_head",
        "_whole_rows",
        "schema",
    )

    def __init__(self, envelope: Envelope, schema: TableSchema, source: dict[str, str]) -> None:
        self.schema = schema
        self._envelope = envelope
        self._names = tuple(column.name for column in schema.columns)
        self._key_columns = schema.key_columns
        self._key_name = schema.key_columns[0] if len(schema.key_columns) == 1 else None
        where = _dumps({**source, "schema": schema.table.schema, "table": schema.table.name})[:-1] + b',"lsn":'
        self._insert_head = b'{"op":"c","source":' + where
        self._update_head = b'{"op":"u","source":' + where
        self._delete_head = b'{"op":"d","source":' + where
        self._truncate_head = b'{"op":"t","source":' + where
        self._tail = b',"rel":%b}}' % _dumps(schema.fingerprint)
        key = {"schema": schema.table.schema, "table": schema.table.name, "key": {}}
        self._key_head = _dumps(key)[:-3]
        self._whole_rows = self._compiled()
        if self._key_name is not None:
            self._key_head += b"{%b:" % _dumps(self._key_name)

    def _compiled(self) -> WholeRows | None:
        if WholeRows is None:
            return None
        key_head = self._key_head if self._key_columns else _table_key(self.schema.table)
        heads = self._insert_head, self._update_head, self._tail
        return WholeRows(self._names, self._key_columns, key_head, *heads)

    def whole_rows(self, frames: list[bytes], at: int, seq: int, records: list[Record]) -> int:
        """Append the records of the inserts, and updates without an old row, that begin at `frames[at]` and are all of
        this relation. How many of the frames that was: none where this is not compiled, or one needs a closer look.
        """
        if self._whole_rows is None:
            return 0
        txn = self._envelope
        return self._whole_rows.encode(frames, at, txn.times, txn.chain, seq, records)

    def join(self, transactions: WholeTransactions, oid: int) -> None:
        """Rows of this table, as relation `oid`, may be in them from now on."""
        if self._whole_rows is not None:
            transactions.add(oid, self._whole_rows)

    def insert(self, row: Row, lsn: int, seq: int) -> Record:
        txn = self._envelope
        name = self._key_name
        return (
            b"%b%b}}" % (self._key_head, _dumps(row[name])) if name is not None else self._key(row),
            _INSERT % (self._insert_head, lsn, txn.times, seq, _dumps(row), txn.chain, seq, self._tail),
        )

    def update(self, kind: int, old: Row | None, row: Row, lsn: int, seq: int) -> Record:
        txn = self._envelope
        before, tail = b"null", self._tail
        if len(row) < len(self._names):
            row = self._fill(row, old, kind)
            unchanged = [name for name in self._names if name not in row]
            if unchanged:
                tail = b',"unchanged":%b%b' % (_dumps(unchanged), tail)
        if old is not None:
            before = self._before(kind, old, row)
        return (
            self._key(row),
            _UPDATE % (self._update_head, lsn, txn.times, seq, before, _dumps(row), txn.chain, seq, tail),
        )

    def delete(self, kind: int, old: Row, lsn: int, seq: int) -> Record:
        txn = self._envelope
        shown = old if kind == OLD_ROW else {name: old[name] for name in self._key_columns}
        return (
            self._key(old),
            _DELETE % (self._delete_head, lsn, txn.times, seq, _dumps(shown), txn.chain, seq, self._tail),
        )

    def truncate(self, statement: dict[str, Any] | None, lsn: int, seq: int) -> Record:
        """`statement` is the `cdc.truncate` object on the final event of one TRUNCATE."""
        txn = self._envelope
        tail = self._tail if statement is None else b',"truncate":%b%b' % (_dumps(statement), self._tail)
        return (
            _table_key(self.schema.table),
            _TRUNCATE % (self._truncate_head, lsn, txn.times, seq, txn.chain, seq, tail),
        )

    def _key(self, row: Row) -> bytes:
        if self._key_name is not None:
            return b"%b%b}}" % (self._key_head, _dumps(row[self._key_name]))
        if not self._key_columns:
            return _table_key(self.schema.table)
        return b"%b%b}" % (self._key_head, _dumps({name: row[name] for name in self._key_columns}))

    def _fill(self, row: Row, old: Row | None, kind: int) -> Row:
        """The row with what the old one knows: everything under FULL, else the key."""
        known: Row = {}
        if old is not None:
            known = old if kind == OLD_ROW else {name: old[name] for name in self._key_columns}
        filled = {
            name: row[name] if name in row else known[name] for name in self._names if name in row or name in known
        }
        if any(name not in filled for name in self._key_columns):
            raise ProtocolError(f"an update of {self.schema.table} lacks a column of the key")
        return filled

    def _before(self, kind: int, old: Row, row: Row) -> bytes:
        if kind == OLD_KEY:
            old = {name: old[name] for name in self._key_columns}
            if all(row[name] == value for name, value in old.items()):
                return b"null"
        return _dumps(old)


def _table_key(table: TableId) -> bytes:
    return _dumps({"schema": table.schema, "table": table.name, "key": None})
