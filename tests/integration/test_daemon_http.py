"""What daemons tell over HTTP is what is going on: to machines, to whoever starts and routes, and to people."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cdc.local import KafkaServer
from cdc.local.ports import free_port
from cdc.local.processes import wait_for
from tests.fixtures.pipeline import Pipelines
from tests.support.bank import BANK, Bank
from tests.support.pipeline import FOLLOWER, LEADER, QUICK_HEARTBEAT, Pipeline, run_sql
from tests.support.promotion import promote
from tests.support.watched import APPLY, MEGABYTE

TABLE = "CREATE TABLE note (id serial PRIMARY KEY, text text)"
TWENTY_MEGABYTES = "INSERT INTO note (text) SELECT repeat(md5(i::text), 32) FROM generate_series(1, 20480) i"
NOTICED_SECONDS = 30.0
PATIENCE_SECONDS = 60.0


class Served:
    """A group whose daemons serve HTTP."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.ports = {name: free_port() for name in ("capture", APPLY)}

    def start(self, *options: str, node: str | None = None) -> Served:
        """`node` is the one that capture is bound to."""
        start = self.pipeline.group.start_command
        bound = ["--node", node] if node else []
        start("capture", "capture", "--http", self.address("capture"), *bound, *options)
        start(APPLY, "apply", "--follower", FOLLOWER, "--http", self.address(APPLY), *options)
        return self

    def address(self, daemon: str) -> str:
        return f"127.0.0.1:{self.ports[daemon]}"

    def get(self, daemon: str, path: str) -> tuple[int, str]:
        """Status and body; status 0 when nobody answers."""
        try:
            with urllib.request.urlopen(f"http://{self.address(daemon)}{path}", timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def says(self, daemon: str, path: str, status: int, seconds: float = PATIENCE_SECONDS) -> dict[str, Any]:
        """What the daemon says, once it says so with that status."""
        found: list[tuple[int, str]] = [(0, "")]

        def asked() -> bool:
            found[0] = self.get(daemon, path)
            return found[0][0] == status

        assert wait_for(asked, seconds=seconds), f"{found[0]}\n{self.pipeline.group.tail_of_logs()}"
        told: dict[str, Any] = json.loads(found[0][1])
        return told

    def metrics(self, daemon: str) -> dict[str, float]:
        """Of ours, by name."""
        families = text_string_to_metric_families(self.get(daemon, "/metrics")[1])
        samples = [sample for family in families for sample in family.samples]
        return {sample.name: sample.value for sample in samples if sample.name.startswith("cdc_")}


@pytest.fixture(scope="module")
def served(module_pipelines: Pipelines) -> Served:
    return Served(module_pipelines.new(*BANK, TABLE).init().bootstrap()).start()


def test_a_group_that_works_is_healthy_and_ready_and_counts_its_work(served: Served):
    for daemon, state in (("capture", "streaming"), (APPLY, "applying")):
        told = served.says(daemon, "/readyz", 200)
        assert (told["state"], told["healthy"], told["ready"], told["problem"]) == (state, True, True, None)
        assert served.says(daemon, "/healthz", 200)["healthy"]
    before = {**served.metrics("capture"), **served.metrics(APPLY)}
    served.pipeline.execute("INSERT INTO note (text) SELECT 'x' FROM generate_series(1, 500)")
    served.pipeline.catch_up()

    def counted() -> bool:
        after = {**served.metrics("capture"), **served.metrics(APPLY)}
        return all(
            after[name] >= before[name] + 500
            for name in ("cdc_capture_records_total", "cdc_apply_records_total", "cdc_apply_changes_total")
        ) and all(
            after[name] > before[name]
            for name in ("cdc_capture_transactions_total", "cdc_apply_commits_total", "cdc_capture_record_bytes_total")
        )

    assert wait_for(counted, seconds=PATIENCE_SECONDS)
    capture, apply = served.metrics("capture"), served.metrics(APPLY)
    assert capture["cdc_capture_epoch"] == apply["cdc_apply_epoch"] == 1
    assert capture["cdc_log_retention_seconds"] == 7 * 24 * 3600
    assert wait_for(lambda: served.metrics("capture")["cdc_capture_lag_bytes"] == 0, seconds=PATIENCE_SECONDS)
    assert wait_for(lambda: served.metrics(APPLY)["cdc_apply_lag_seconds"] == 0, seconds=PATIENCE_SECONDS)


def test_an_applier_that_is_blocked_is_not_well_and_says_what_to_run(served: Served):
    pipeline = served.pipeline
    served.says(APPLY, "/readyz", 200)
    pipeline.execute("ALTER TABLE note ADD COLUMN more text", "INSERT INTO note (more) VALUES ('y')")
    told = served.says(APPLY, "/healthz", 503, NOTICED_SECONDS)
    assert wait_for(lambda: served.says(APPLY, "/healthz", 503)["state"] == "blocked", seconds=NOTICED_SECONDS)
    told = served.says(APPLY, "/healthz", 503)
    assert "ADD COLUMN" in told["problem"]
    assert served.says(APPLY, "/readyz", 503)["ready"] is False
    assert served.says("capture", "/healthz", 200)["healthy"], "it is the follower's trouble alone"
    picture = served.get("capture", "/picture")[1]
    assert "is blocked since" in picture
    lag = json.loads(pipeline.group.run("lag", "--json").stdout)
    assert lag["followers"][0]["state"] == "blocked"
    assert lag["followers"][0]["total_seconds"] > 0

    run_sql(
        pipeline.followers[FOLLOWER],
        "SET session_replication_role = replica",
        "SET default_transaction_read_only = off",
        "ALTER TABLE note ADD COLUMN more text",
    )
    assert served.says(APPLY, "/readyz", 200)["state"] == "applying"
    pipeline.catch_up()
    pipeline.assert_equal()


def test_lag_over_the_limit_is_exit_code_3(served: Served):
    pipeline = served.pipeline
    pipeline.catch_up()
    assert wait_for(lambda: pipeline.group.run("lag", "--max", "30").returncode == 0, seconds=PATIENCE_SECONDS)
    pipeline.process(APPLY).suspend()
    try:
        pipeline.execute("INSERT INTO note (text) VALUES ('late')")
        assert wait_for(lambda: pipeline.group.run("lag", "--max", "1.5").returncode == 3, seconds=PATIENCE_SECONDS)
        late = pipeline.group.run("lag", "--max", "1.5")
        assert re.fullmatch(
            rf"cdc: group \S+: {FOLLOWER} is [\d.]+ s behind, more than 1.5 s. To do: see cdc status\n", late.stderr
        )
    finally:
        pipeline.process(APPLY).resume()
    pipeline.catch_up()


def test_a_port_that_is_taken_is_one_clear_line(served: Served):
    served.says("capture", "/healthz", 200)
    done = served.pipeline.group.run("apply", "--follower", FOLLOWER, "--http", served.address("capture"))
    assert done.returncode == 3
    assert [line for line in done.stderr.splitlines() if line.startswith("cdc:")] == [
        f"cdc: --http {served.address('capture')}: cannot listen there: Address already in use. "
        "To do: name another address, or end what uses it"
    ]
    assert "Traceback" not in done.stderr


def test_the_page_shows_the_group_in_a_browser(served: Served, tmp_path: Path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium is installed on this system; tests/unit/test_group_page.py reads the page instead")
    served.says(APPLY, "/readyz", 200)
    served.pipeline.catch_up()
    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync",
         "--disable-component-update", "--no-first-run", f"--user-data-dir={tmp_path}", "--virtual-time-budget=6000",
         "--dump-dom", f"http://{served.address(APPLY)}/"],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    shown = re.search(r'<div id="picture".*</svg>', done.stdout, re.DOTALL)
    assert shown, done.stdout + done.stderr[-2000:]
    for text in ("us-east", "capture", "streaming", "log", FOLLOWER, "applying"):
        assert f">{text}<" in shown[0]


def test_daemons_that_rest_after_a_switchover_are_behind_by_nothing(pipelines: Pipelines):
    # Given a capture that is bound to the leader, and an applier of the node that will lead.
    pipeline = pipelines.new(TABLE).init().bootstrap()
    group = Served(pipeline).start(node=LEADER)
    group.says("capture", "/readyz", 200)
    group.says(APPLY, "/readyz", 200)
    assert wait_for(lambda: "cdc_slot_retained_bytes" in group.metrics("capture"), seconds=PATIENCE_SECONDS)
    assert "cdc_apply_epoch" in group.metrics(APPLY)

    # When that node is promoted.
    promote(pipeline, FOLLOWER)
    rest = {"capture": "standing by", APPLY: "leading"}
    assert wait_for(
        lambda: all(group.says(daemon, "/readyz", 200)["state"] == rest[daemon] for daemon in rest),
        seconds=PATIENCE_SECONDS,
    )
    time.sleep(3)  # for which a lag would have risen

    # Then both are behind by nothing, and speak of no leader and slot that are none any more.
    capture, apply = group.metrics("capture"), group.metrics(APPLY)
    behind = ("cdc_capture_lag_seconds", "cdc_capture_lag_bytes", "cdc_apply_lag_seconds", "cdc_apply_lag_records")
    assert [{**capture, **apply}[name] for name in behind] == [0, 0, 0, 0]
    assert [name for name in capture if name.startswith(("cdc_slot_", "cdc_log_")) or name.endswith("_epoch")] == []
    assert "cdc_apply_committed_timestamp_seconds" not in apply
    assert "cdc_apply_epoch" not in apply


def test_what_the_slot_keeps_is_told_while_kafka_takes_nothing(
    pipelines: Pipelines, own_kafka: Callable[[], KafkaServer]
):
    # Given a capture that reads no further once four megabytes are under way.
    kafka = own_kafka().start()
    limit = f"{QUICK_HEARTBEAT}\nmax_in_flight_bytes = {4 * MEGABYTE}"
    pipeline = pipelines.new(TABLE, kafka_server=kafka, extra=limit).init().bootstrap()
    group = Served(pipeline).start()
    group.says("capture", "/readyz", 200)
    kafka.kill()

    def keeps(least: float) -> bool:
        return group.metrics("capture")["cdc_slot_retained_bytes"] >= least

    # When the leader goes on, then it is seen how much WAL it keeps, and that it keeps less afterwards.
    for most in (40 * MEGABYTE, 80 * MEGABYTE):
        assert not keeps(most)
        pipeline.execute(*[TWENTY_MEGABYTES] * 3)
        assert wait_for(partial(keeps, most), seconds=PATIENCE_SECONDS), pipeline.group.tail_of_logs()
    kafka.start()
    pipeline.catch_up()
    pipeline.execute("CHECKPOINT")
    assert wait_for(lambda: not keeps(40 * MEGABYTE), seconds=PATIENCE_SECONDS)


@pytest.mark.long
def test_without_kafka_nobody_is_well_and_each_says_so(pipelines: Pipelines, own_kafka: Callable[[], KafkaServer]):
    kafka = own_kafka().start()
    pipeline = pipelines.new(*BANK, kafka_server=kafka).init().bootstrap()
    group = Served(pipeline).start("--ready-within", "5")
    for daemon in group.ports:
        group.says(daemon, "/readyz", 200)
    with Bank(pipeline.leader) as bank:
        bank.transacts(5)
        kafka.kill()
        for daemon in group.ports:
            told = group.says(daemon, "/healthz", 503, NOTICED_SECONDS)
            assert told["state"] in ("stuck", "interrupted")
            assert "topic" in told["problem"] or "log" in told["problem"]
            assert group.says(daemon, "/readyz", 503)["ready"] is False
        bank.transacts(5)
        # The page shows what can be reached, and lag that rises.
        told = [json.loads(group.get("capture", "/lag")[1]) for _ in range(2)][-1]
        assert told["log_problem"]
        assert told["leader"]["slot_active"] is not None
        assert told["followers"][0]["total_bytes"] > 0
        # And nothing of it holds up the end of a daemon.
        assert pipeline.group.stop(APPLY) == 0
        kafka.start()
    assert group.says("capture", "/readyz", 200)["state"] == "streaming"
