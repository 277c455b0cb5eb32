"""The metrics of the daemons: one table that says what each is, from which both `/metrics` and the reference are made.

`python -m cdc.cli.metrics` prints ops/reference/metrics.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cdc import __version__
from cdc.services.health import Health
from cdc.services.meters import ApplyMeter, CaptureMeter

Subject = TypeVar("Subject")


@dataclass(frozen=True, slots=True)
class Measure(Generic[Subject]):
    """One metric. A name that ends with `_total` is a counter, every other one a gauge; `read` gives None where there
    is no value now, and the metric is left out."""

    name: str
    means: str
    read: Callable[[Subject], float | None]


@dataclass(frozen=True, slots=True)
class Daemon:
    """What all of them say of themselves."""

    health: Health
    ready: Callable[[], bool]


DAEMON: tuple[Measure[Daemon], ...] = (
    Measure("cdc_healthy", "1 while the daemon does its work, as /healthz says.", lambda d: d.health.condition().ok),
    Measure("cdc_ready", "1 while it is healthy and not too far behind, as /readyz says.", lambda d: d.ready()),
    Measure(
        "cdc_state_seconds",
        "How long it has been in its present state, which the label `state` names.",
        lambda d: d.health.seconds(),
    ),
    Measure(
        "cdc_interruptions_total",
        "Sessions that ended because of a lost connection, or of something that somebody must act on.",
        lambda d: d.health.interruptions,
    ),
)

CAPTURE: tuple[Measure[CaptureMeter], ...] = (
    Measure(
        "cdc_capture_lag_seconds",
        "How long ago the oldest heartbeat was sent to the leader that the log does not hold yet; 0 when it holds all. "
        "Measured by capture's own clock alone.",
        lambda m: m.freshness.lag_seconds(),
    ),
    Measure(
        "cdc_capture_lag_bytes",
        "WAL that capture has received and the log does not hold durably yet.",
        lambda m: max(0, m.received_lsn - m.durable_lsn),
    ),
    Measure("cdc_capture_epoch", "The epoch of the leader that is captured.", lambda m: m.epoch or None),
    Measure("cdc_capture_received_lsn", "How far the WAL was received, as a number.", lambda m: m.received_lsn or None),
    Measure(
        "cdc_capture_durable_lsn",
        "How far the log holds it durably, as a number; the slot is confirmed up to here.",
        lambda m: m.durable_lsn or None,
    ),
    Measure(
        "cdc_capture_in_flight_bytes", "Records handed to Kafka and not acknowledged.", lambda m: m.in_flight_bytes
    ),
    Measure("cdc_capture_records_total", "Records handed to Kafka.", lambda m: m.records),
    Measure("cdc_capture_record_bytes_total", "Bytes of their values, uncompressed.", lambda m: m.record_bytes),
    Measure("cdc_capture_transactions_total", "Transactions published, heartbeats included.", lambda m: m.transactions),
    Measure(
        "cdc_slot_retained_bytes",
        "WAL that the leader keeps for the slot, as of the last look (every 5 s, while Kafka does not answer up to a "
        "minute).",
        lambda m: m.slot.retained_bytes if m.slot else None,
    ),
    Measure(
        "cdc_slot_safe_bytes",
        "WAL that may still be written before the leader may give up the slot. Absent without max_slot_wal_keep_size.",
        lambda m: m.slot.safe_wal_bytes if m.slot else None,
    ),
    Measure(
        "cdc_slot_limit_bytes",
        "max_slot_wal_keep_size. Absent without it.",
        lambda m: m.slot.wal_keep_bytes if m.slot else None,
    ),
    Measure(
        "cdc_log_retention_seconds",
        "How long the topic keeps a record (retention.ms). Absent when for ever.",
        lambda m: m.topic.retention_ms / 1000 if m.topic and m.topic.retention_ms >= 0 else None,
    ),
)

APPLY: tuple[Measure[ApplyMeter], ...] = (
    Measure(
        "cdc_apply_lag_seconds",
        "How old what the follower shows is, while that is not all that the log holds; 0 when it is.",
        lambda m: m.lag_seconds(),
    ),
    Measure("cdc_apply_lag_records", "Records of the log that are not applied.", lambda m: m.lag_records),
    Measure(
        "cdc_apply_committed_timestamp_seconds",
        "When the leader committed the newest transaction that the follower shows, by the leader's clock. With "
        "heartbeats, `time()` less this is how stale a reader may be, whatever is stuck.",
        lambda m: m.position.committed_at_us / 1e6 if m.position else None,
    ),
    Measure("cdc_apply_epoch", "The epoch of that transaction.", lambda m: m.position.epoch if m.position else None),
    Measure(
        "cdc_apply_position_lsn",
        "Where it ends, as a number.",
        lambda m: m.position.end_lsn if m.position else None,
    ),
    Measure("cdc_apply_records_total", "Records read from the log.", lambda m: m.records),
    Measure("cdc_apply_record_bytes_total", "Bytes of those that were applied.", lambda m: m.record_bytes),
    Measure("cdc_apply_changes_total", "Changes of rows applied, before they are netted.", lambda m: m.changes),
    Measure(
        "cdc_apply_commits_total",
        "Transactions of the follower, each of whole ones of the leader.",
        lambda m: m.commits,
    ),
    Measure(
        "cdc_apply_busy_seconds_total",
        "Time between reading records and having them applied. A rate near 1 means that the follower is the limit.",
        lambda m: m.busy_seconds,
    ),
)

INFO = "cdc_build_info"
_INFO_MEANS = "1; the label `version` names the version."


class _Measures(Collector, Generic[Subject]):
    """Reads a subject whenever it is asked."""

    def __init__(
        self,
        measures: Sequence[Measure[Subject]],
        subject: Subject,
        labels: Callable[[str], dict[str, str]],
    ) -> None:
        """`labels` gives those of the metric with a name."""
        self._measures = measures
        self._subject = subject
        self._labels = labels

    def collect(self) -> Iterator[Metric]:
        for measure in self._measures:
            value = measure.read(self._subject)
            if value is not None:
                labels = self._labels(measure.name)
                family = _family(measure.name)(measure.name, measure.means, labels=list(labels))
                family.add_metric(list(labels.values()), float(value))
                yield family


def _family(name: str) -> type[CounterMetricFamily] | type[GaugeMetricFamily]:
    return CounterMetricFamily if _kind(name) == "counter" else GaugeMetricFamily


def registry(group: str, daemon: Daemon, meter: CaptureMeter | ApplyMeter, follower: str | None) -> CollectorRegistry:
    """All metrics of a daemon; `follower` is that of an applier."""
    own = {"group": group, **({"follower": follower} if follower else {})}
    role = {**own, "daemon": "apply" if follower else "capture"}

    def of_daemon(name: str) -> dict[str, str]:
        return {**role, "state": daemon.health.condition().state} if name == "cdc_state_seconds" else role

    made = CollectorRegistry()
    made.register(_Measures(DAEMON, daemon, of_daemon))
    if isinstance(meter, CaptureMeter):
        made.register(_Measures(CAPTURE, meter, lambda _: own))
    else:
        made.register(_Measures(APPLY, meter, lambda _: own))
    build: Measure[None] = Measure(INFO, _INFO_MEANS, lambda _: 1)
    made.register(_Measures((build,), None, lambda _: {**role, "version": __version__}))
    ProcessCollector(registry=made)
    return made


def names() -> list[str]:
    """Of all metrics of ours."""
    return [INFO, *(measure.name for part in (DAEMON, CAPTURE, APPLY) for measure in part)]


def document() -> str:
    """ops/reference/metrics.md."""
    parts = [
        ("Of every daemon", "`group`, `daemon` (`capture` or `apply`), `follower` of an applier", [
            (INFO, _INFO_MEANS), *_rows(DAEMON)]),
        ("Of `cdc capture`", "`group`", _rows(CAPTURE)),
        ("Of `cdc apply`", "`group`, `follower`", _rows(APPLY)),
    ]  # fmt: skip
    lines = [
        "# Metrics",
        "",
        "What `--http HOST:PORT` of a daemon serves at `/metrics`. Made by `python -m cdc.cli.metrics`: do not edit it",
        "here. Values are read when they are asked for; counters are those of the process. What lag means: `lag.md`.",
        "Memory, CPU and open files of the process come beside them, as `process_...`. A daemon that rests",
        "(`standing by`, `leading`) is behind by 0, and has neither epoch nor LSNs, and nothing of slot and topic.",
    ]
    for title, labels, rows in parts:
        lines += ["", f"## {title}", "", f"Labels: {labels}.", "", "| metric | kind | meaning |", "| --- | --- | --- |"]
        lines += [f"| `{name}` | {_kind(name)} | {means} |" for name, means in rows]
    return "\n".join(lines) + "\n"


def _kind(name: str) -> str:
    return "counter" if name.endswith("_total") else "gauge"


def _rows(measures: Sequence[Measure[Subject]]) -> list[tuple[str, str]]:
    return [(measure.name, measure.means) for measure in measures]


if __name__ == "__main__":
    print(document(), end="")
