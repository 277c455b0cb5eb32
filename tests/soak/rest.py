"""A moment of rest: nothing is broken, nothing is written, so everything must be equal and as it was at first."""

from __future__ import annotations

import threading
from collections.abc import Callable

from tests.soak.findings import Findings
from tests.soak.nemesis import Nemesis
from tests.soak.resources import ResourceWatch
from tests.soak.schedule import DAEMONS, FOLLOWERS, SERVERS
from tests.soak.stage import Stage
from tests.support.contents import contents, digests
from tests.support.pipeline import LEADER

_SLOW_SECONDS = 15.0
_SHOWN_ROWS = 5
_SHOWN_CHARACTERS = 200


def rest(
    stage: Stage,
    nemesis: Nemesis,
    resources: ResourceWatch,
    findings: Findings,
    stop: threading.Event,
    say: Callable[[str], None],
) -> None:
    """The load is held by the caller."""
    for server in sorted(stage.ensure(*SERVERS)):
        findings.note(f"{server} had ended after its fault was over, and was started")
    seconds = nemesis.recover()
    if seconds is None:
        return
    if seconds > _SLOW_SECONDS:
        findings.note(f"it took {seconds:.1f} s to catch up at rest")
    for name in DAEMONS:
        if "Traceback" in stage.logs()[name].read_text(errors="replace"):
            findings.violation(f"{name} has a traceback in its log")
    rows = _compare(stage, findings)
    resources.rest(stop)
    findings.rests += 1
    findings.rows_compared += rows
    say(f"at rest: caught up in {seconds:.1f} s, {rows} rows compared on {len(FOLLOWERS)} followers")


def _compare(stage: Stage, findings: Findings) -> int:
    """Every row of every table; how many rows the leader has."""
    expected = digests(stage.dsn(LEADER))
    for name in FOLLOWERS:
        found = digests(stage.dsn(name))
        for table in sorted(expected.keys() | found.keys()):
            if expected.get(table) != found.get(table):
                findings.violation(f"{name}: table {table} differs: {_difference(stage, name, table)}")
    return sum(count for count, _ in expected.values())


def _difference(stage: Stage, follower: str, table: str) -> str:
    there, here = contents(stage.dsn(LEADER), table), contents(stage.dsn(follower), table)
    missing, more = _without(there, here), _without(here, there)
    return f"{len(there)} rows on the leader, {len(here)} here; missing here: {missing}; more here: {more}"


def _without(rows: list[str], others: list[str]) -> list[str]:
    return [row[:_SHOWN_CHARACTERS] for row in sorted(set(rows) - set(others))[:_SHOWN_ROWS]]
