"""Metrics, alerts, dashboard, runbooks and documents speak of the same things, and of all of them."""

from __future__ import annotations

import ast
import itertools
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from cdc.capture_ports import SlotFacts, TopicFacts
from cdc.cli import metrics
from cdc.cli.metrics import Daemon, registry
from cdc.errors import RetryableError
from cdc.events.position import Position
from cdc.ports import FollowerFacts, Leadership
from cdc.protocol.lsn import Lsn
from cdc.services.health import Health
from cdc.services.meters import ApplyMeter, CaptureMeter
from cdc.services.status import node_status

ROOT = Path(__file__).parents[2]
ALERTS = sorted((ROOT / "ops" / "alerts").glob("*.yaml"))
DASHBOARDS = sorted((ROOT / "ops" / "grafana").glob("*.json"))
REFERENCE = ROOT / "ops" / "reference"
NAME = re.compile(r"\bcdc_[a-z_]+\b")
NOT_METRICS = {"cdc_read_only", "cdc_apply", "cdc_capture", "cdc_admin", "cdc_shop"}
"""Names of a trigger, of roles and of a slot."""


def names_in(text: str) -> set[str]:
    return set(NAME.findall(text)) - NOT_METRICS


def exposed() -> str:
    """What both daemons serve when everything is known."""
    slot = SlotFacts("pgoutput", "shop", False, 1, None, Lsn(5), Lsn(1), "reserved", None, 10, 20, None, 7)
    topic = TopicFacts("id", 1, "delete", 1_000_000, 3_600_000)
    capture = CaptureMeter(epoch=1, received_lsn=10, durable_lsn=9, slot=slot, topic=topic)
    apply = ApplyMeter()
    apply.committed(Position(1, Lsn(5), Lsn(9), 1_000_000, 3), 7, 100)
    daemon = Daemon(Health(), lambda: True)
    made = [registry("shop", daemon, capture, None), registry("shop", daemon, apply, "eu-west")]
    return "".join(generate_latest(one).decode() for one in made)


def test_what_is_served_is_what_the_table_says_by_the_rules_of_prometheus():
    families = list(text_string_to_metric_families(exposed()))
    served = {sample.name for family in families for sample in family.samples}
    assert {name for name in served if name.startswith("cdc_")} == set(metrics.names())
    for family in families:
        assert family.documentation
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter"), sample.name
            if sample.name.startswith("cdc_"):
                assert sample.labels["group"] == "shop"
    unitless = {"cdc_build_info", "cdc_healthy", "cdc_ready", "cdc_apply_lag_records"}
    odd = [
        name
        for name in set(metrics.names()) - unitless
        if not name.endswith(("_seconds", "_bytes", "_total", "_epoch", "_lsn"))
    ]
    assert odd == []


def test_the_reference_is_fresh():
    told = (REFERENCE / "metrics.md").read_text()
    assert told == metrics.document(), "run: python -m cdc.cli.metrics > ops/reference/metrics.md"


def test_every_metric_is_on_the_dashboard_and_nothing_else_is():
    for dashboard in DASHBOARDS:
        used = names_in(" ".join(expressions(json.loads(dashboard.read_text()))))
        assert used == set(metrics.names())


def test_alerts_and_documents_name_metrics_that_there_are():
    documents = [*REFERENCE.glob("*.md"), *(ROOT / "ops" / "runbooks").glob("*.md"), ROOT / "README.md"]
    for file in (*ALERTS, *documents):
        assert names_in(file.read_text()) <= set(metrics.names()), file.name


def follower_states() -> Iterator[str]:
    """All that there are."""
    for old, flags in itertools.product((None, 2), itertools.product((False, True), repeat=4)):
        closed, applier, blocked, diverged = flags
        since = {"diverged_since": "then" if diverged else None, "blocked_since": "then" if blocked else None}
        facts = FollowerFacts(
            Leadership(old, closed, None), "", "", "backend 1" if applier else None, blocked=None, decisions=(), **since
        )
        yield node_status("eu-west", facts, leads=False).state
    yield node_status("eu-west", RetryableError("lost"), leads=False).state


def test_every_state_of_a_follower_is_in_the_reference():
    told = (REFERENCE / "lag.md").read_text()
    states = {state.replace("eu-west", "NAME").replace("epoch 2", "epoch N") for state in follower_states()}
    assert len(states) == 9
    assert [state for state in sorted(states) if f"`{state}`" not in told] == []


def test_every_alert_has_a_runbook():
    for file in ALERTS:
        text = file.read_text()
        alerts = re.findall(r"- alert: (\w+)", text)
        runbooks = re.findall(r"runbook: (\S+)", text)
        assert alerts
        assert len(alerts) == len(runbooks)
        for alert, runbook in zip(alerts, runbooks, strict=True):
            assert alert in (ROOT / runbook).read_text(), f"{runbook} does not speak of {alert}"


@pytest.mark.parametrize(
    "arguments",
    [["check", "rules", *map(str, ALERTS)], ["test", "rules", str(Path(__file__).parent / "alerts.test.yaml")]],
    ids=["check", "test"],
)
def test_alerts_fire_for_what_they_are_for(arguments: list[str]):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool, which comes with Prometheus, is not installed on this system")
    done = subprocess.run([promtool, *arguments], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tried():
    tried = (Path(__file__).parent / "alerts.test.yaml").read_text()
    for file in ALERTS:
        for alert in re.findall(r"- alert: (\w+)", file.read_text()):
            assert f'alertname="{alert}"' in tried


def test_every_key_of_the_logs_is_in_the_reference_and_nothing_else_is():
    text = (REFERENCE / "logs.md").read_text()
    documented = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    assert documented == {*log_keys(), "timestamp", "level", "event"}


def expressions(dashboard: object) -> Iterator[str]:
    """Of every panel, and of the variables."""
    if isinstance(dashboard, dict):
        for key, value in dashboard.items():
            if key in ("expr", "query") and isinstance(value, str):
                yield value
            else:
                yield from expressions(value)
    elif isinstance(dashboard, list):
        for value in dashboard:
            yield from expressions(value)


LOGGERS = {
    *(f"log.{level}" for level in ("debug", "info", "warning", "error")),
    "tell",
    "self._warn",
    "structlog.contextvars.bind_contextvars",
}


def log_keys() -> set[str]:
    """Every keyword of a call that logs, and every key of a dictionary `facts` that is handed on to one."""
    found: set[str] = set()
    for package in ("cdc", "connectors"):
        for file in (ROOT / package).rglob("*.py"):
            nodes = list(ast.walk(ast.parse(file.read_text())))
            calls = [node for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func) in LOGGERS]
            keywords = [keyword for call in calls for keyword in call.keywords]
            found |= {keyword.arg for keyword in keywords if keyword.arg}
            if any(keyword.arg is None for keyword in keywords):
                found |= set(facts_in(nodes))
    return found


def facts_in(nodes: list[ast.AST]) -> Iterator[str]:
    for node in nodes:
        named = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "facts"
        if named and isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            yield from (str(key.value) for key in node.value.keys if isinstance(key, ast.Constant))
