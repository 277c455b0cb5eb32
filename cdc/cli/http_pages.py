"""What a daemon tells over HTTP: metrics for machines, health and readiness for those who start and route, a page for
people."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict

import orjson
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from cdc.cli.group_page import page, picture
from cdc.cli.http_server import Address, Answer, DaemonServer
from cdc.cli.metrics import Daemon, registry
from cdc.cli.wiring.lag import lag_watch
from cdc.config import Settings
from cdc.errors import CdcError
from cdc.services.health import Health
from cdc.services.lag import GroupLook, LagReport
from cdc.services.meters import ApplyMeter, CaptureMeter

_LOOK_SECONDS = 2.0
"""The group is asked when somebody looks, and at most so often."""
_JSON = "application/json"


@contextmanager
def served(
    address: str | None,
    ready_within: float,
    settings: Settings,
    health: Health,
    meter: CaptureMeter | ApplyMeter,
    follower: str | None = None,
) -> Iterator[None]:
    """Serves a daemon's pages meanwhile; nothing without an `address`. Raises ConfigError, or CheckError when
    there is no listening there."""
    if address is None:
        yield
        return
    readiness = Readiness(health, meter, ready_within)
    metrics = registry(settings.group, Daemon(health, readiness.is_ready), meter, follower)
    with DaemonServer(Address.parse(address), pages(settings, health, readiness, metrics)):
        yield


class Readiness:
    """Healthy, and not behind by more than `within` seconds: the log behind the leader for capture, the follower behind
    the log for an applier. One that rests has nothing to catch up with."""

    def __init__(self, health: Health, meter: CaptureMeter | ApplyMeter, within: float) -> None:
        self._health = health
        self._meter = meter
        self._within = within

    def lag_seconds(self) -> float:
        return (
            self._meter.freshness.lag_seconds() if isinstance(self._meter, CaptureMeter) else self._meter.lag_seconds()
        )

    def is_ready(self) -> bool:
        return self._health.condition().ok and self.lag_seconds() <= self._within

    def told(self) -> dict[str, object]:
        lag = self.lag_seconds()
        return {**told(self._health), "ready": self.is_ready(), "lag_seconds": round(lag, 3), "within": self._within}


def told(health: Health) -> dict[str, object]:
    found = health.condition()
    seconds = round(health.seconds(), 1)
    return {"healthy": found.ok, "state": found.state, "seconds": seconds, "problem": found.problem}


def pages(
    settings: Settings, health: Health, readiness: Readiness, metrics: CollectorRegistry
) -> Mapping[str, Callable[[], Answer]]:
    group = GroupView(settings)

    def healthz() -> Answer:
        return Answer(orjson.dumps(told(health)) + b"\n", _JSON, 200 if health.condition().ok else 503)

    def readyz() -> Answer:
        return Answer(orjson.dumps(readiness.told()) + b"\n", _JSON, 200 if readiness.is_ready() else 503)

    return {
        "/": lambda: Answer(page(settings.group).encode(), "text/html; charset=utf-8"),
        "/picture": lambda: Answer(group.picture().encode(), "text/html; charset=utf-8"),
        "/lag": lambda: group.as_json(),
        "/metrics": lambda: Answer(generate_latest(metrics), CONTENT_TYPE_LATEST),
        "/healthz": healthz,
        "/readyz": readyz,
    }


class GroupView:
    """The last look at the whole group, made anew when somebody asks and it is old. One at a time looks; who comes
    meanwhile gets the look before."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._looking = threading.Lock()
        self._look: GroupLook | None = None
        self._report: LagReport | CdcError | None = None

    def picture(self) -> str:
        report = self.report()
        return picture(report, 0.0 if self._look is None else time.monotonic() - self._look.at)

    def as_json(self) -> Answer:
        report = self.report()
        if isinstance(report, CdcError):
            return Answer(orjson.dumps({"problem": str(report)}), _JSON, 503)
        return Answer(orjson.dumps(asdict(report)), _JSON)

    def report(self) -> LagReport | CdcError:
        """The error says why there is nothing to show."""
        if self._looking.acquire(blocking=self._report is None):
            try:
                if self._look is None or time.monotonic() - self._look.at > _LOOK_SECONDS:
                    self._report = self._look_again()
            finally:
                self._looking.release()
        assert self._report is not None
        return self._report

    def _look_again(self) -> LagReport | CdcError:
        try:
            report, self._look = lag_watch(self._settings, self._look)
        except CdcError as error:
            return error
        return report
