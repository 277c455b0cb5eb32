"""`cdc skip`: one transaction that cannot be applied is left out, after all its events are in a file.

It must be the next link of the follower's chain, and no applier may run. The position moves past it in one transaction
together with the record of who decided it. Whatever kills a run, the same command can be given again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cdc import failpoints
from cdc.errors import ChainGapError, CheckError, LogError
from cdc.events.position import Position, TransactionName
from cdc.events.table import TableSchema
from cdc.log.chain import Chain, Verdict
from cdc.log.parts import PartJoiner
from cdc.log.records import foreign, parse, position_after, table_schema
from cdc.ports import Decision, LogReader
from cdc.protocol.lsn import Lsn
from cdc.services.kept_file import kept

_FETCH = 1000
_WAIT_SECONDS = 5.0


class SkipTarget(Protocol):
    """A follower whose applier's place this command takes."""

    def open(self) -> Position | None: ...

    def skipped(self, name: TransactionName) -> Decision | None: ...

    def commit(self, position: Position, schemas: Sequence[TableSchema], decision: Decision | None = None) -> None: ...


@dataclass(frozen=True, slots=True)
class Skipped:
    """`already`: an earlier run did it."""

    decision: Decision
    already: bool


@dataclass(frozen=True, slots=True)
class _Event:
    fields: dict[str, Any]
    meta: dict[str, Any]
    value: bytes
    offset: int


def skip(
    reader: LogReader, target: SkipTarget, node: str, name: TransactionName, reason: str, by: str, file: Path
) -> Skipped:
    """Raises CheckError when `name` is not the follower's next transaction, FencedError while an applier runs."""
    position = target.open()
    if position is None:
        raise CheckError("this node leads, nothing is applied to it", "name a follower", node)
    earlier = target.skipped(name)
    if earlier is not None:
        return Skipped(earlier, already=True)
    if name <= position.name:
        raise CheckError(f"transaction {name} is applied, the follower is at {position.name}", "see cdc status", node)
    link = _NextLink(reader, position)
    tables: set[str] = set()
    count, last = 0, None
    events = link.events()
    first = next(events)
    _check_name(first, name, node)
    with kept(file) as out:
        for event in _chained(first, events):
            out.write(event.value.replace(b"\n", b" ") + b"\n")
            count, last = count + 1, event
            if event.fields["op"] in "cudt":
                source = event.fields["source"]
                tables.add(f"{source['schema']}.{source['table']}")
    if last is None:
        raise AssertionError("a transaction has an event")
    decision = Decision("skip", reason, by, name, tuple(sorted(tables)), count, str(file.absolute()))
    failpoints.hit(failpoints.SKIP_BEFORE_COMMIT)
    target.commit(position_after(last.fields, last.meta, last.offset), link.schemas, decision)
    failpoints.hit(failpoints.SKIP_AFTER_COMMIT)
    return Skipped(decision, already=False)


def _check_name(first: _Event, name: TransactionName, node: str) -> None:
    found = TransactionName(first.meta["epoch"], Lsn(first.meta["commit_lsn"]))
    if found != name:
        raise CheckError(
            f"the follower's next transaction is {found}, not {name}",
            "start the applier and name the position that it stops at; only that transaction can be left out",
            node,
        )
    if first.meta.get("kind") == "epoch":
        raise CheckError(f"{name} is the beginning of an epoch, which holds no rows", "see cdc status", node)


def _chained(first: _Event, others: Iterator[_Event]) -> Iterator[_Event]:
    yield first
    yield from others


class _NextLink:
    """Reads the transaction after a position, record by record. `schemas` are the shapes told on the way."""

    def __init__(self, reader: LogReader, position: Position) -> None:
        self._reader = reader
        self._position = position
        self.schemas: list[TableSchema] = []

    def events(self) -> Iterator[_Event]:
        """Of one transaction, to its last. Raises CheckError when the log does not hold it whole."""
        for event, verdict in self._numbered():
            if verdict is Verdict.NEXT:
                yield event
                if "last" in event.meta:
                    return

    def _numbered(self) -> Iterator[tuple[_Event, Verdict]]:
        """From the stored offset, which is only a hint; where it does not fit, from the beginning of the log."""
        started = False
        try:
            for found in self._from(self._position.next_offset):
                started = started or found[1] is Verdict.NEXT
                yield found
        except LogError:
            if started:
                raise
            yield from self._from(self._reader.watermarks()[0])

    def _from(self, offset: int) -> Iterator[tuple[_Event, Verdict]]:
        chain, joiner = Chain(self._position.epoch, self._position.commit_lsn), PartJoiner()
        for event in self._records(offset):
            meta, joined = event.meta, event
            try:
                if meta.get("kind") == "part":
                    if not joiner.pending and meta["part"] != 1:
                        continue
                    value = joiner.add(meta, event.fields["message"]["content"])
                    if value is None:
                        continue
                    joined = _Event(*parse(value, event.offset), value, event.offset)
                    meta = joined.meta
                if meta.get("kind") == "schema":
                    self.schemas.append(table_schema(meta))
                elif "seq" in meta:
                    verdict = chain.accept(
                        meta["epoch"], meta["commit_lsn"], meta["prev"], meta["seq"], "last" in meta,
                        meta.get("prev_epoch"),
                    )  # fmt: skip
                    yield joined, verdict
            except ChainGapError:
                raise
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise foreign(event.offset, f"a field is missing or wrong ({type(error).__name__})") from error

    def _records(self, offset: int) -> Iterator[_Event]:
        self._reader.seek(offset)
        _, end = self._reader.watermarks()
        while offset < end:
            found = self._reader.consume(_FETCH, _WAIT_SECONDS)
            if not found:
                break
            for record in found:
                offset = (record.offset() or 0) + 1
                value = record.value() or b""
                yield _Event(*parse(value, offset - 1), value, offset - 1)
        raise CheckError(
            "the log holds no whole transaction after the follower's position", "nothing is to be left out", "cdc skip"
        )
