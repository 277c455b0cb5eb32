"""Two people promote at the same time: the lock tells the second one, and past the lock the log decides."""

from __future__ import annotations

import re
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from cdc.cli.wiring.group import leader
from cdc.config import load
from cdc.local.processes import wait_for
from cdc.log.envelope import Envelope, finished
from connectors.kafka.consumer import LogReader
from connectors.kafka.producer import LogProducer
from connectors.kafka.settings import common_settings
from tests.fixtures.pipeline import Pipelines
from tests.support.pipeline import FOLLOWER, LEADER, OTHER_FOLLOWER, QUICK_HEARTBEAT, Pipeline, rows_of
from tests.support.promotion import LOADED, fails, in_epoch, takes_writes

HOLD = "import pathlib, sys, time\np = pathlib.Path(sys.argv[1])\np.touch()\nwhile p.exists(): time.sleep(0.05)\n"


def epoch_record(leader: str, epoch: int, promotion: str, start: int, prev: int) -> bytes:
    """What the promotion of another node would have written."""
    envelope = Envelope("test", "", "0", epoch)
    envelope.begin(0, start - 1, prev, 0, 0)
    why = {"promotion": promotion, "by": "somebody else", "reason": None}
    return finished(envelope.epoch(leader, "1", 1, "slot", epoch - 1, why), start)[1]


def write_epoch(pipeline: Pipeline, leader: str, epoch: int, promotion: str) -> None:
    """Behind everybody's back, after what is in the log now."""
    client = common_settings(pipeline.kafka_servers, "test", {})
    with LogReader(client, pipeline.group.topic) as reader:
        tail = reader.read_tail()
    assert tail is not None
    record = epoch_record(leader, epoch, promotion, int(tail.end_lsn) + 8, int(tail.commit_lsn))
    with LogProducer(client, pipeline.group.topic, 1_000_000) as writer:
        writer.publish([(None, record)], 1)
        assert writer.flush(10)


def test_the_second_one_is_told_who_is_at_it_and_since_when(pipelines: Pipelines, tmp_path: Path):
    # Given a promotion that is held up just before it opens the new leader.
    program, flag = tmp_path / "hold.py", tmp_path / "held"
    program.write_text(HOLD)
    hook = f'{QUICK_HEARTBEAT}\n[hooks]\nbefore_open = "{sys.executable} {program} {flag}"\n'
    pipeline = pipelines.new(*LOADED, followers=(FOLLOWER, OTHER_FOLLOWER), extra=hook).init().bootstrap().start()
    pipeline.catch_up()
    with ThreadPoolExecutor() as pool:
        first = pool.submit(pipeline.run, "promote", "--follower", FOLLOWER, seconds=150)
        try:
            assert wait_for(flag.exists, seconds=90), "the hook is not reached"
            # When a second one is begun, for whichever follower, or is to be taken back.
            for arguments in (["--follower", FOLLOWER], ["--follower", OTHER_FOLLOWER], ["--abort"]):
                line = fails(pipeline, 4, "promote", *arguments)
                # Then it is told, and does nothing.
                assert re.search(r"cdc promote by \S+@\S+ is at it since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d", line), line
            assert not takes_writes(pipeline.nodes[FOLLOWER])
        finally:
            flag.unlink(missing_ok=True)
        first.result()
    in_epoch(pipeline, 2, FOLLOWER, without=(LEADER,))


def test_of_two_that_race_past_the_lock_the_log_takes_the_first(pipelines: Pipelines):
    # Given a promotion that has closed the leader, and another one's epoch record, which came first.
    pipeline = pipelines.new(*LOADED, followers=(FOLLOWER, OTHER_FOLLOWER)).init().bootstrap().start()
    pipeline.start_apply(LEADER)
    pipeline.catch_up()
    killed = pipeline.group.run("promote", "--follower", FOLLOWER, failpoint="promote.publish")
    assert killed.returncode == -9, killed.stderr
    write_epoch(pipeline, OTHER_FOLLOWER, 2, "theirs")
    own = rows_of(pipeline.nodes[FOLLOWER], "SELECT promotion FROM cdc.promotion")[0][0]
    write_epoch(pipeline, FOLLOWER, 2, own)

    # When it goes on, then it says so, has opened nothing, and is over.
    line = fails(pipeline, 4, "promote", "--follower", FOLLOWER)
    assert f"{OTHER_FOLLOWER} was promoted for epoch 2 at the same time, and was first" in line
    assert [name for name, dsn in pipeline.nodes.items() if takes_writes(dsn)] == []
    assert rows_of(pipeline.nodes[FOLLOWER], "SELECT promotion, outcome FROM cdc.promotion") == [(own, "overtaken")]
    with closing(LogReader(common_settings(pipeline.kafka_servers, "test", {}), pipeline.group.topic)) as reader:
        start = reader.find_epoch(2, 0)
    assert start is not None
    assert (start.leader, start.promotion) == (OTHER_FOLLOWER, "theirs")
    assert leader(load(str(pipeline.group.config))).name == OTHER_FOLLOWER

    # And whoever wants another one after that is told whose promotion must be completed first.
    line = fails(pipeline, 3, "promote", "--follower", FOLLOWER)
    assert f"{OTHER_FOLLOWER} is to lead epoch 2 and is not open yet: cdc promote --follower {OTHER_FOLLOWER}" in line
