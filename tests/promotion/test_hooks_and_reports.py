"""The operator's own commands on the way, and what is left behind for people and programs to read."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.fixtures.pipeline import Pipelines
from tests.support.pipeline import FOLLOWER, LEADER, QUICK_HEARTBEAT, Pipeline, rows_of
from tests.support.promotion import LOADED, Clients, takes_writes, the_line

RECORD = """
import json, os, pathlib, sys
name, folder = sys.argv[1], pathlib.Path(sys.argv[2])
told = {key: value for key, value in os.environ.items() if key.startswith("CDC_") and key != "CDC_CONFIG"}
with (folder / name).open("a") as out:
    out.write(json.dumps(told) + "\\n")
print(f"{name} was here")
sys.exit(7 if (folder / f"{name} fails").exists() else 0)
"""


class Hooked:
    """A group whose hooks write down their environment, and fail when they are told to."""

    def __init__(self, pipelines: Pipelines, folder: Path) -> None:
        self._folder = folder
        program = folder / "hook.py"
        program.write_text(RECORD)
        hooks = [f'{name} = "{sys.executable} {program} {name} {folder}"' for name in ("before_open", "after_promote")]
        self.pipeline: Pipeline = pipelines.new(*LOADED, extra="\n".join([QUICK_HEARTBEAT, "[hooks]", *hooks, ""]))
        self.pipeline.init().bootstrap().start()
        self.pipeline.start_apply(LEADER)
        self.pipeline.catch_up()

    def fail(self, name: str, *, on: bool) -> None:
        flag = self._folder / f"{name} fails"
        flag.touch() if on else flag.unlink()

    def calls(self, name: str) -> list[dict[str, str]]:
        file = self._folder / name
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.fixture
def hooked(pipelines: Pipelines, tmp_path: Path) -> Hooked:
    return Hooked(pipelines, tmp_path)


def test_hooks_are_told_who_leads_and_their_failures_count_where_they_must(hooked: Hooked, tmp_path: Path):
    pipeline, file = hooked.pipeline, tmp_path / "report.json"
    follower = pipeline.nodes[FOLLOWER]
    port = rows_of(follower, "SELECT current_setting('port')")[0][0]
    with Clients(pipeline.nodes) as clients:
        clients.transact(10)
        # Given a hook before the opening that fails, then nothing is opened.
        hooked.fail("before_open", on=True)
        done = pipeline.group.run("promote", "--follower", FOLLOWER, seconds=120)
        line = the_line(done)
        assert (done.returncode, done.stdout) == (3, ""), done.stderr
        assert "before_open was here" in done.stderr.splitlines()
        assert "before_open" in line
        assert "ended with code 7" in line
        assert not takes_writes(follower)
        assert rows_of(follower, "SELECT to_regclass('cdc.identity')") == [(None,)]
        # When it works again, then the same command goes on; one that fails at the end is told, and undoes nothing.
        hooked.fail("before_open", on=False)
        hooked.fail("after_promote", on=True)
        shown = pipeline.run("promote", "--follower", FOLLOWER, "--report", str(file))
        clients.transact(10)
    for word in (f"{FOLLOWER} leads, epoch 2 (planned", "lost", "nothing", "writes were refused for", "after_promote"):
        assert word in shown
    told = hooked.calls("before_open")[-1]
    assert {key: told[key] for key in ("CDC_LEADER", "CDC_EPOCH", "CDC_LEADER_PORT")} == {
        "CDC_LEADER": FOLLOWER, "CDC_EPOCH": "2", "CDC_LEADER_PORT": port,
    }  # fmt: skip
    assert "CDC_LEADER_PASSWORD" not in told
    assert len(hooked.calls("before_open")) == 2
    assert hooked.calls("after_promote") == [told]
    report = json.loads(file.read_text())
    assert [step["name"] for step in report["steps"]] == ["drain", "sequences", "slot", "open", "demote", "capture"]
    assert report["loss"].startswith("nothing")
    assert any("after_promote" in todo for todo in report["remaining"])
    assert {node["name"] for node in report["nodes"]} == {LEADER, FOLLOWER}
    # And a promotion that is done is not done again.
    assert "leads already" in pipeline.run("promote", "--follower", FOLLOWER)
    assert len(hooked.calls("before_open")) == 2
    hooked.fail("after_promote", on=False)
    # And one whose report cannot be written in the end shows it, and says that it is complete.
    done = pipeline.group.run("promote", "--follower", LEADER, "--json", "--report", "/dev/full", seconds=120)
    assert (done.returncode, json.loads(done.stdout)["epoch"]) == (3, 3), done.stderr
    assert "the promotion is complete; the report could not be written to /dev/full: No space left" in the_line(done)
    assert takes_writes(pipeline.nodes[LEADER])
    pipeline.run("promote", "--follower", LEADER, "--report", str(file))
    assert json.loads(file.read_text())["epoch"] == 3
