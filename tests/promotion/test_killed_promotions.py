"""`cdc promote` is killed after each of its steps; the same command then ends with one leader and nothing lost."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from cdc.local import KafkaServer
from tests.fixtures.pipeline import Pipelines
from tests.fixtures.servers import NEWEST, SYSTEM, SharedServers, bin_dir_of
from tests.support.pipeline import FOLLOWER, LEADER, OTHER_FOLLOWER, Pipeline, rows_of
from tests.support.promotion import (
    LOADED,
    NUMBERED,
    Clients,
    assert_one_leader,
    in_epoch,
    leader_in,
    promote,
    receipts_in,
    use_numbers,
)
from tests.support.proxy import CUT, PASS, Proxy

pytestmark = pytest.mark.faults


def steps(*names: str, always: tuple[str, ...] = ()) -> list[Any]:
    """Parameters, of which those that are not `always` run with --all."""
    return [pytest.param(name, marks=() if name in always else pytest.mark.long) for name in names]


PLANNED = steps(
    "begin", "fence", "publish", "epoch", "drain", "sequences", "slot", "open", "demote", "capture",
    always=("fence", "demote"),
)  # fmt: skip
EMERGENCY = steps("begin", "epoch", "drain", "sequences", "slot", "open", "capture", always=("epoch",))
ON_THE_OTHER_VERSION = steps("fence", "slot", "demote")


class TestPlanned:
    """One group is switched to and fro; whoever leads when a case begins is switched from."""

    @pytest.mark.parametrize("step", PLANNED)
    def test_the_same_command_completes_it(self, module_pipelines: Pipelines, step: str):
        self.killed_after(module_pipelines, NEWEST, step)

    @pytest.mark.parametrize("step", ON_THE_OTHER_VERSION)
    def test_the_same_command_completes_it_on_an_older_server(self, module_pipelines: Pipelines, step: str):
        self.killed_after(module_pipelines, SYSTEM, step)

    def killed_after(self, pipelines: Pipelines, version: int, step: str) -> None:
        bin_dir_of(version)  # skips when it is not installed

        def build() -> Pipeline:
            pipeline = pipelines.new(*LOADED, *NUMBERED, version=version)
            pipeline.init().bootstrap().start()
            pipeline.start_apply(LEADER)
            pipeline.catch_up()
            return pipeline

        # Given a group under load, and a promotion that was killed after one of its steps.
        pipeline = pipelines.kept(("planned", version), build)
        old = leader_in(pipeline)
        new = FOLLOWER if old == LEADER else LEADER
        with Clients(pipeline.nodes) as clients:
            clients.transact(20)
            killed = pipeline.group.run("promote", "--follower", new, failpoint=f"promote.{step}")
            assert killed.returncode == -9, killed.stderr
            # When the same command is run again.
            report = promote(pipeline, new)
            use_numbers(pipeline.nodes[new], 5)
            clients.transact(20)
        # Then one node leads, all have what was acknowledged, and nobody asked for anything else.
        assert (report["new_leader"], report["old_leader"], report["mode"]) == (new, old, "planned")
        assert report["writes_refused_seconds"] is not None
        assert len(report["remaining"]) == 1, report["remaining"]
        in_epoch(pipeline, report["epoch"], new)
        pipeline.assert_all_equal(new)
        clients.assert_all_on(*pipeline.nodes.values())
        assert_one_leader(pipeline, new)
        assert rows_of(pipeline.nodes[new], "SELECT FROM cdc.promotion WHERE outcome IS NULL") == []


@pytest.fixture(scope="module")
def behind_proxies(shared_servers: SharedServers, kafka: KafkaServer, tmp_path_factory: pytest.TempPathFactory):
    """A group of three; each node is reached by a proxy of its own."""
    with ExitStack() as stack:
        nodes, proxies = {}, {}
        for name, role in ((LEADER, "leader"), (FOLLOWER, "follower"), (OTHER_FOLLOWER, "third")):
            server, database = shared_servers.get(role), f"killed_{name}"
            dsn = urlsplit(server.create_database(database))
            stack.callback(server.drop_database, database)
            proxy = proxies[name] = stack.enter_context(Proxy(f"127.0.0.1:{dsn.port}"))
            nodes[name] = dsn._replace(netloc=dsn.netloc.replace(str(dsn.port), str(proxy.port))).geturl()
        pipeline = stack.enter_context(
            Pipeline(tmp_path_factory.mktemp("group"), nodes.pop(LEADER), nodes, kafka.start().bootstrap_servers)
        )
        pipeline.execute(*LOADED, *NUMBERED)
        pipeline.init().bootstrap().start()
        pipeline.start_apply(LEADER)
        pipeline.catch_up()
        yield pipeline, proxies


class TestEmergency:
    """Each case cuts off a leader, which then rejoins."""

    @pytest.mark.parametrize("step", EMERGENCY)
    def test_the_same_command_completes_it(
        self, step: str, behind_proxies: tuple[Pipeline, dict[str, Proxy]], tmp_path: Path
    ):
        # Given a group under load whose leader cannot be reached, and a promotion that was killed after a step.
        pipeline, proxies = behind_proxies
        old = leader_in(pipeline)
        new = next(name for name in pipeline.nodes if name != old)
        dead = "--leader-is-dead", "it is cut off"
        with Clients(pipeline.nodes) as clients:
            clients.transact(20)
            proxies[old].set(CUT)
            killed = pipeline.group.run("promote", "--follower", new, *dead, failpoint=f"promote.{step}")
            assert killed.returncode == -9, killed.stderr
            # When the same command is run again.
            report = promote(pipeline, new, *dead)
            use_numbers(pipeline.nodes[new], 5)
            clients.transact(20)
        # Then the new node leads, and what it lacks is exported when the old one rejoins.
        assert (report["new_leader"], report["old_leader"], report["mode"]) == (new, old, "emergency")
        assert report["remaining"][0] == f"when {old} is back: cdc rejoin --node {old}"
        lost = clients.missing_on(pipeline.nodes[new])
        proxies[old].set(PASS)
        file = tmp_path / "tail.jsonl"
        pipeline.run("rejoin", "--node", old, "--discard-tail", "--file", str(file))
        assert set(lost) <= receipts_in(file)
        in_epoch(pipeline, report["epoch"], new)
        pipeline.assert_all_equal(new)
        assert_one_leader(pipeline, new)
        assert report["loss"].startswith(f"unknown: what {old} committed after ")
