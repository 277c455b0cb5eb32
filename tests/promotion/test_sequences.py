"""Where the new leader's sequences go on: where those of the old leader would have."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from cdc.events.table import TableId
from cdc.local.processes import wait_for
from cdc.log.sequences import SEQUENCES_PREFIX, sequence_values
from tests.fixtures.pipeline import Pipelines
from tests.fixtures.servers import OwnPostgres
from tests.support.log import Event, read_log
from tests.support.pipeline import FOLLOWER, LEADER, OTHER_FOLLOWER, Pipeline, rows_of, run_sql
from tests.support.promotion import IN_SPITE_OF_DEFAULTS, in_epoch, promote

LEAST, MOST = -(2**63), 2**63 - 1
SEQUENCES = {
    "unused": [],
    "used": ["SELECT nextval('used') FROM generate_series(1, 7)"],
    "starts_high": [],
    "moved_on": ["ALTER SEQUENCE moved_on RESTART WITH 500000"],
    "moved_after_use": ["SELECT nextval('moved_after_use')", "SELECT setval('moved_after_use', 70000, false)"],
    "moved_down": ["SELECT setval('moved_down', -900, false)"],
    "at_its_first": ["SELECT nextval('at_its_first')", "ALTER SEQUENCE at_its_first RESTART WITH 10"],
    "at_its_end": [f"SELECT setval('at_its_end', {LEAST}, false)"],
}
KINDS = {
    "starts_high": "START 7000 INCREMENT 5",
    "moved_down": "INCREMENT -3",
    "at_its_first": "MINVALUE 10 START 20",
    "at_its_end": f"MINVALUE {LEAST} START 1",
}
OWNED = {"indexed": "PRIMARY KEY", "plain": ""}
"""Where rows came with numbers of their own; only an index tells that at once."""
PLAIN = ("ALTER TABLE plain REPLICA IDENTITY FULL",)
EXPECTED = {
    "unused": 1, "used": 8, "starts_high": 7000, "moved_on": 500000, "moved_after_use": 70000, "moved_down": -900,
    "at_its_first": 10, "indexed_id_seq": 901, "plain_id_seq": 1,
    "at_its_end": LEAST + 1,  # what comes before the least bigint is none: one value is left out
}  # fmt: skip


def test_sequences_go_on_at_a_switchover_also_those_that_were_moved_without_being_used(pipelines: Pipelines):
    # Given sequences that were used, restarted or set, in both directions and at their bounds, after the bootstrap.
    created = [f"CREATE SEQUENCE {name} {KINDS.get(name, '')}" for name in SEQUENCES]
    owned = [f"CREATE TABLE {name} (id serial {key}, x int)" for name, key in OWNED.items()]
    pipeline = pipelines.new("CREATE TABLE t (id int PRIMARY KEY)", *created, *owned, *PLAIN).init().bootstrap().start()
    pipeline.start_apply(LEADER)
    for statements in SEQUENCES.values():
        pipeline.execute(*statements)
    pipeline.execute("INSERT INTO t VALUES (1)", *(f"INSERT INTO {name} VALUES (900)" for name in OWNED))
    pipeline.catch_up()
    follower = pipeline.nodes[FOLLOWER]
    database = rows_of(follower, "SELECT current_database()")[0][0]
    role = rows_of(follower, "SELECT current_user")[0][0]
    run_sql(
        follower,
        "SET default_transaction_read_only = off",
        f'ALTER ROLE "{role}" IN DATABASE "{database}" SET default_transaction_read_only = on',
    )

    # When the follower becomes the leader, then each goes on where the old leader's would have.
    report = promote(pipeline, FOLLOWER)
    query = ", ".join(f"nextval('{name}')" for name in EXPECTED)
    with psycopg.connect(follower, options=IN_SPITE_OF_DEFAULTS) as session:
        values = session.execute(f"SELECT {query}").fetchall()[0]
    assert dict(zip(EXPECTED, values, strict=True)) == EXPECTED

    # And what is left to do says that its sessions are read-only for another reason than ours.
    assert any("ALTER ROLE" in todo for todo in report["remaining"]), report["remaining"]
    # And who did not see the end is told the same again.
    assert promote(pipeline, FOLLOWER) == report


FREE = TableId("public", "free")
LAST = "SELECT pg_sequence_last_value('free'::regclass)"
KNOWN = "SELECT last_value FROM cdc.sequence WHERE sequence_name = 'free'"


def told(pipeline: Pipeline) -> list[Event]:
    """The records of the log that tell values of sequences."""
    events = read_log(pipeline.kafka_servers, pipeline.group.topic)
    return [event for event in events if event.get("message", {}).get("prefix") == SEQUENCES_PREFIX]


def values_in(event: Event) -> dict[TableId, int]:
    return sequence_values(event["message"]["content"])


@pytest.mark.faults
def test_a_node_knows_sequences_that_have_not_moved_since_it_joined(
    pipelines: Pipelines, own_postgres: OwnPostgres, tmp_path: Path
):
    # Given a sequence of which the log last told before the followers were bootstrapped, and a leader that died.
    server = own_postgres()
    pipeline = pipelines.new(
        "CREATE SEQUENCE free", "CREATE TABLE t (id bigint PRIMARY KEY DEFAULT nextval('free'))",
        leader=server, followers=(FOLLOWER, OTHER_FOLLOWER),
    )  # fmt: skip
    pipeline.execute("SELECT setval('free', 50000)")
    pipeline.init().start_capture()
    assert wait_for(lambda: any(FREE in values_in(event) for event in told(pipeline)), seconds=30)
    pipeline.bootstrap()
    assert [rows_of(dsn, KNOWN) for dsn in pipeline.followers.values()] == [[(50000,)]] * 2
    for follower in pipeline.followers:
        pipeline.start_apply(follower)
    pipeline.catch_up()
    pipeline.group.kill("capture")
    pipeline.execute("INSERT INTO t VALUES (1)")  # nobody else has it
    server.kill()

    # When a follower takes over, then it goes on after all that may have been used, and says so before any write.
    new = pipeline.nodes[FOLLOWER]
    promote(pipeline, FOLLOWER, "--leader-is-dead", "power cut")
    assert rows_of(new, "INSERT INTO t DEFAULT VALUES RETURNING id") == [(60001,)]
    already = len(told(pipeline))
    pipeline.start_capture()
    in_epoch(pipeline, 2, FOLLOWER, without=[LEADER])
    assert values_in(told(pipeline)[already])[FREE] == 60000
    assert wait_for(lambda: any(values_in(event).get(FREE) == 60001 for event in told(pipeline)), seconds=30)

    # And the old leader, which rejoins behind all that was told, knows as much.
    server.start()
    pipeline.run("rejoin", "--node", LEADER, "--discard-tail", "--file", str(tmp_path / "tail.jsonl"))
    assert rows_of(pipeline.nodes[LEADER], KNOWN) == rows_of(new, LAST) == [(60001,)]
