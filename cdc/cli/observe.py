"""Looking without touching: `cdc status` and `cdc tail`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import click
import orjson

from cdc.cli.options import config_option, json_option
from cdc.cli.wiring.group import log_reader
from cdc.cli.wiring.status import group_status
from cdc.config import load
from cdc.errors import CdcError, CheckError, printable
from cdc.log.records import parse
from cdc.ports import FollowerFacts
from cdc.protocol.lsn import Lsn
from cdc.services.status import GroupStatus


@click.command("status")
@config_option
@json_option
def status_command(config_path: str | None, as_json: bool) -> None:
    """Who leads, who follows, in which state, and what was decided.

    Exit 3 when a part cannot be reached; what can be is shown.
    """
    status = group_status(load(config_path))
    if as_json:
        click.echo(orjson.dumps(asdict(status), default=str))
    else:
        for line in _status_lines(status):
            click.echo(line)
    if status.problem or any(node.problem for node in status.nodes):
        raise CheckError("some parts of the group cannot be reached", "see the lines above")


def _status_lines(status: GroupStatus) -> Iterator[str]:
    end = f"epoch {status.epoch}, the log ends at {status.log_end}" if status.epoch else f"log: {status.problem}"
    yield f"group {status.group}: {status.leader} leads; {end}"
    for node in status.nodes:
        yield f"{node.name} ({node.role}): {node.state}"
        if node.problem:
            yield f"  {node.problem}"
        known = node.leader or node.follower
        if known and known.leadership.promotion:
            yield f"  a promotion of this node has not ended: {known.leadership.promotion}"
        if node.leader:
            yield f"  WAL at {node.leader.wal_lsn}, slot {node.leader.slot}, read by {node.leader.capture or 'nobody'}"
        if node.follower:
            yield from (f"  {line}" for line in _follower_lines(node.follower))


def _follower_lines(follower: FollowerFacts) -> Iterator[str]:
    applied = f", applied {follower.applied_at}" if follower.applied_at else ""
    yield f"at {follower.position}{applied}; applier: {follower.applier or 'none'}"
    if follower.blocked_since:
        yield f"blocked since {follower.blocked_since}: {follower.blocked}"
    if follower.diverged_since:
        yield f"diverged since {follower.diverged_since}: a transaction was left out; bootstrap it anew"
    for decision in follower.decisions:
        kept = f", kept in {decision.file}" if decision.file else ""
        counted = f"{decision.events} {'rows' if decision.action == 'copy' else 'events'}"
        yield (
            f"{decision.at} {decision.action} {decision.position} by {decision.by} ({decision.role}): "
            f"{decision.reason}; {counted} of {', '.join(decision.tables) or 'no table'}{kept}"
        )


@click.command("tail")
@config_option
@json_option
@click.option("--from", "start", type=click.IntRange(min=0), metavar="OFFSET",
              help="First Kafka offset to show. [default: the newest --limit records]")  # fmt: skip
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="How many records.")
def tail_command(config_path: str | None, as_json: bool, start: int | None, limit: int) -> None:
    """Show records of the log; they hold the values of rows.

    With --json each record as it is, one a line; else in short: offset, EPOCH/LSN of the transaction, place in it (with
    a dot behind the last one), what it is.

    Exit 3 when the offset is not in the log or Kafka cannot be reached, 4 when there is no log.
    """
    settings = load(config_path)
    with log_reader(settings, "tail") as reader:
        low, high = reader.watermarks()
        first = max(low, high - limit) if start is None else start
        if not low <= first <= high:
            raise CheckError(f"offset {first} is not in the log", f"name one from {low} to {high}", settings.topic)
        reader.seek(first)
        shown = 0
        while shown < min(limit, high - first):
            for record in reader.consume(min(500, limit - shown), 5.0):
                offset, value = record.offset() or 0, record.value() or b""
                if as_json:
                    sys.stdout.buffer.write(value + b"\n")
                else:
                    click.echo(printable(_readable(offset, value)))
                shown += 1
        sys.stdout.flush()


def _readable(offset: int, value: bytes) -> str:
    """One line; a record that is not ours has one too, because it is what somebody looks for."""
    try:
        return _told(offset, *parse(value, offset))
    except (CdcError, KeyError, TypeError, ValueError, AttributeError):
        return f"{offset:>10}  {'':<16} {'':>7}  {len(value)} bytes that are no event of this log"


def _told(offset: int, event: dict[str, Any], meta: dict[str, Any]) -> str:
    place = f"{offset:>10}  {meta.get('epoch')}/{Lsn(meta.get('commit_lsn', 0))}"
    order = f"{meta.get('seq', '-')}{'.' if 'last' in meta else ''}"
    return f"{place:<30} {order:>7}  {_what(event, meta)}"


def _what(event: dict[str, Any], meta: dict[str, Any]) -> str:
    if "kind" in meta:
        told = meta.get("schema") or {}
        extra = f" {told.get('schema')}.{told.get('table')}" if told else f" {meta.get('leader', '')}"
        return f"{meta['kind']}{extra}".rstrip()
    if event["op"] == "m":
        return f"message {event['message']['prefix']}"
    source = event["source"]
    rows = [f"{name}={orjson.dumps(event[name]).decode()}" for name in ("before", "after") if event.get(name)]
    return " ".join([_OPERATIONS.get(event["op"], event["op"]), f"{source['schema']}.{source['table']}", *rows])


_OPERATIONS = {"c": "insert", "u": "update", "d": "delete", "t": "truncate"}
