"""What a promotion tells at its end: what may be lost, how long nobody could write, what is left to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import TypeAdapter

from cdc.promotion_ports import PromotionRecord
from cdc.protocol.lsn import Lsn


@dataclass(frozen=True, slots=True)
class StepReport:
    name: str
    seconds: float
    result: str


@dataclass(frozen=True, slots=True)
class NodeReport:
    """How far a node was when the promotion began."""

    name: str
    epoch: int | None
    commit_lsn: str | None


@dataclass(frozen=True, slots=True)
class PromotionReport:
    """`writes_refused_seconds` counts from the first table that was closed (planned), or from the beginning of the
    promotion (emergency), until the new leader took writes."""

    promotion: str
    group: str
    mode: str
    new_leader: str
    old_leader: str
    epoch: int
    by: str
    reason: str | None
    log_end: str
    log_offset: int
    loss: str
    writes_refused_seconds: float | None
    nodes: list[NodeReport]
    unreachable: dict[str, str]
    steps: list[StepReport]
    remaining: list[str]


REPORT = "final"
"""Where the record of a promotion on its node holds the report."""


def last_report(record: PromotionRecord | None, epoch: int) -> PromotionReport | None:
    """Of the promotion that began `epoch`, for whoever did not see it end; None when `record` is of another one."""
    if record is None or record.epoch != epoch or REPORT not in record.report:
        return None
    return TypeAdapter(PromotionReport).validate_python(record.report[REPORT])


def loss(mode: str, old_leader: str, old_end: Mapping[str, Any], at: float) -> str:
    """In words: what the old leader committed that the new one does not have."""
    if mode == "planned":
        return "nothing: the old leader was closed for writes, and all that it committed is applied"
    newest = Lsn(old_end.get("commit_lsn", 0))
    committed_at = old_end.get("committed_at_us", 0) / 1e6
    when = datetime.fromtimestamp(committed_at, UTC).isoformat(timespec="milliseconds")
    return (
        f"unknown: what {old_leader} committed after {newest} ({when}, {max(0.0, at - committed_at):.1f} s before this "
        "promotion) is not in the log"
    )
