"""The runbooks for people: every command in them is run in its order against a real group, so they cannot rot."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from cdc.cli.main import every_command
from cdc.local import PostgresServer
from cdc.local.processes import wait_for
from tests.fixtures.pipeline import Pipelines
from tests.fixtures.servers import OwnPostgres
from tests.support.pipeline import FOLLOWER, LEADER, OTHER_FOLLOWER, Pipeline, rows_of, run_sql
from tests.support.promotion import in_epoch, promote
from tests.support.topic import fatal

ROOT = Path(__file__).parents[2]
RUNBOOKS = sorted((ROOT / "ops" / "runbooks").glob("*.md"))
TABLES = (
    "CREATE TABLE item (id int PRIMARY KEY, v text)",
    "INSERT INTO item SELECT i, 'v' || i FROM generate_series(1, 100) i",
)
ONLY_THERE = ("INSERT INTO item VALUES (1001, 'only there')", "UPDATE item SET v = 'only there' WHERE id = 7")
DAEMONS = ("apply", "capture")
SMALL_SLOTS = {"max_slot_wal_keep_size": "16MB", "max_wal_size": "32MB", "min_wal_size": "32MB"}

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, and its lines."""

    language: str
    lines: list[str]


def blocks(runbook: str) -> list[Block]:
    text = (ROOT / "ops" / "runbooks" / runbook).read_text()
    return [Block(language, body.splitlines()) for language, body in re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL)]


def follow(pipeline: Pipeline, runbook: str, folder: Path, between: Callable[[str], None] = lambda _: None) -> None:
    """Do what the runbook says, line by line. A line that is to end with another code than 0 says so: `# exits 3: ...`.

    `between` gets every command after it was run.
    """
    for block in blocks(runbook):
        if block.language == "sql":
            for dsn in pipeline.nodes.values():
                assert rows_of(dsn, "\n".join(block.lines))
            continue
        assert block.language == "sh"
        for line in block.lines:
            run_line(pipeline, line, folder)
            between(line)


def run_line(pipeline: Pipeline, line: str, folder: Path) -> None:
    program, *arguments = shlex.split(line, comments=True)
    assert program == "cdc", line
    if arguments[0] in DAEMONS:
        pipeline.start_apply(arguments[-1]) if arguments[0] == "apply" else pipeline.start_capture()
        return
    expected = re.search(r"# exits (\d)", line)
    arguments = [str(folder / word) if word.endswith((".json", ".jsonl")) else word for word in arguments]
    done = pipeline.group.run(*arguments, seconds=120)
    code = int(expected[1]) if expected else 0
    assert done.returncode == code, f"{line}\nended with {done.returncode}:\n{done.stderr}{done.stdout}"
    assert "Traceback" not in done.stderr


def ready(pipelines: Pipelines, leader: PostgresServer | None = None) -> Pipeline:
    """A group as the runbooks take it: an applier for every node, all of them up to date."""
    pipeline = pipelines.new(*TABLES, leader=leader, followers=(FOLLOWER, OTHER_FOLLOWER))
    pipeline.init().bootstrap().start().start_apply(LEADER)
    pipeline.catch_up()
    return pipeline


def leads(pipeline: Pipeline) -> tuple[str, int]:
    found = json.loads(pipeline.run("leader", "--json"))
    return found["leader"], found["epoch"]


def takes_writes(dsn: str) -> bool:
    try:
        run_sql(dsn, "UPDATE item SET v = v WHERE id = 1")
    except psycopg.errors.ReadOnlySqlTransaction:
        return False
    return True


def promote_beside_a_living_leader(pipeline: Pipeline, folder: Path) -> None:
    """As from a machine that the leader cannot be reached from."""
    cut_off = folder / "cut-off.toml"
    cut_off.write_text(pipeline.group.config.read_text().replace(pipeline.leader, "postgresql://127.0.0.1:1/nowhere"))
    promote(pipeline, FOLLOWER, "--leader-is-dead", "[/b] the network says so", "--config", str(cut_off))


def test_planned_switchover_goes_there_and_back(pipelines: Pipelines, tmp_path: Path):
    pipeline = ready(pipelines)
    seen = []

    def between(line: str) -> None:
        if line.startswith("cdc promote") and "--dry-run" not in line:
            leader, epoch = leads(pipeline)
            run_sql(pipeline.nodes[leader], f"INSERT INTO item VALUES ({9000 + epoch}, 'after')")
            in_epoch(pipeline, epoch, leader)
            seen.append(leader)

    follow(pipeline, "planned-switchover.md", tmp_path, between)

    assert seen == [FOLLOWER, LEADER]
    assert leads(pipeline) == (LEADER, 3)
    pipeline.assert_all_equal(LEADER)
    for name in ("promotion-1.json", "promotion-2.json"):
        assert json.loads((tmp_path / name).read_bytes())["loss"].startswith("nothing")


def test_dead_leader_is_followed_by_another_and_comes_back(
    pipelines: Pipelines, own_postgres: OwnPostgres, tmp_path: Path
):
    # Given a leader that dies with transactions that no other node has.
    server = own_postgres()
    pipeline = ready(pipelines, server)
    pipeline.group.kill("capture")
    pipeline.execute(*ONLY_THERE)
    server.kill()
    pipeline.start_capture()

    # When the one runbook is followed, and the other when the server is back.
    follow(pipeline, "leader-is-dead.md", tmp_path)
    assert leads(pipeline) == (FOLLOWER, 2)
    run_sql(pipeline.nodes[FOLLOWER], "INSERT INTO item VALUES (1001, 'new leader')")
    pipeline.group.stop(f"apply {LEADER}")
    with (server.data_dir / "postgresql.auto.conf").open("a") as configuration:
        configuration.write("default_transaction_read_only = on\n")
    server.start()
    with pytest.raises(psycopg.OperationalError, match="read-only"):
        psycopg.connect(pipeline.nodes[LEADER], target_session_attrs="read-write")
    follow(pipeline, "rejoin.md", tmp_path)

    # Then it follows, all rows are equal, and what only it had is in both exports.
    in_epoch(pipeline, 2, FOLLOWER)
    pipeline.assert_all_equal(FOLLOWER)
    for name in ("us-east-tail.jsonl", "us-east-tail-discarded.jsonl"):
        changes = [json.loads(line) for line in (tmp_path / name).read_bytes().splitlines()]
        assert [change["key"]["id"] for change in changes] == ["1001", "7"]
    assert not takes_writes(pipeline.nodes[LEADER])


@pytest.mark.long
def test_two_leaders_become_one(pipelines: Pipelines, tmp_path: Path):
    # Given a leader that was declared dead, lives on, and takes writes.
    pipeline = ready(pipelines)
    pipeline.group.kill(f"apply {LEADER}")
    promote_beside_a_living_leader(pipeline, tmp_path)
    pipeline.execute(*ONLY_THERE)
    assert takes_writes(pipeline.nodes[LEADER])
    assert takes_writes(pipeline.nodes[FOLLOWER])

    # When the runbook is followed, then it is closed as soon as it says so.
    def between(line: str) -> None:
        if line.startswith("cdc apply"):
            assert wait_for(lambda: not takes_writes(pipeline.nodes[LEADER]), seconds=60)

    follow(pipeline, "split-brain-feared.md", tmp_path, between)

    # Then one leads, all rows are equal, and nothing that the other had is lost without a trace.
    in_epoch(pipeline, 2, FOLLOWER)
    pipeline.assert_all_equal(FOLLOWER)
    assert b"only there" in (tmp_path / "us-east-tail.jsonl").read_bytes()


def test_slot_in_danger_names_what_holds_the_slot_and_nobody_else(own_postgres: OwnPostgres):
    # Given a slot, and a session that has been reading for long.
    server = own_postgres(settings={"wal_level": "logical", "max_prepared_transactions": "2"})
    shop, neighbour = server.create_database("shop"), server.create_database("neighbour")
    for dsn in (shop, neighbour):
        run_sql(dsn, TABLES[0])
    run_sql(shop, "SELECT pg_create_logical_replication_slot('s', 'pgoutput')")
    sessions, prepared = ("\n".join(b.lines) for b in blocks("slot-in-danger.md") if b.language == "sql")

    def named() -> tuple[list[object], list[object]]:
        """By the runbook's queries, without the ten minutes."""
        now = sessions.replace("10 min", "0 min")
        assert now != sessions
        return [row[0] for row in rows_of(shop, now)], [row[0] for row in rows_of(shop, prepared)]

    def moves(seconds: float) -> bool:
        """Whether the slot gives up WAL that is written now, once all is confirmed."""
        written = rows_of(shop, "SELECT pg_current_wal_lsn()")[0][0]

        def moved() -> bool:
            run_sql(shop, "CHECKPOINT", "SELECT pg_replication_slot_advance('s', pg_current_wal_lsn())")
            return rows_of(shop, f"SELECT restart_lsn > '{written}' FROM pg_replication_slots") == [(True,)]

        return wait_for(moved, seconds=seconds)

    with psycopg.connect(shop) as reader, psycopg.connect(neighbour) as writer:
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT FROM item")
        assert moves(30)
        assert named() == ([], [])

        # Then one that has written, in another database, holds it and is named, until it ends.
        writer.execute("INSERT INTO item VALUES (1, 'x')")
        assert not moves(3)
        assert named() == ([writer.info.backend_pid], [])
        writer.rollback()
        assert moves(30)

        # And so is one that is prepared, which is in no session.
        writer.execute("INSERT INTO item VALUES (1, 'x')")
        writer.execute("PREPARE TRANSACTION 'two phases'")
        assert not moves(3)
        assert named() == ([], ["two phases"])
        run_sql(neighbour, "ROLLBACK PREPARED 'two phases'")
        assert moves(30)


def lose_slot(pipeline: Pipeline) -> None:
    """Write more WAL than slots may keep."""
    lost = f"SELECT wal_status = 'lost' FROM pg_replication_slots WHERE slot_name = '{pipeline.group.slot}'"
    write = "SELECT pg_logical_emit_message(false, 'x', repeat('x', 10000000))"

    def more() -> bool:
        run_sql(pipeline.leader, write, "SELECT pg_switch_wal()", "CHECKPOINT")
        return rows_of(pipeline.leader, lost) == [(True,)]

    assert wait_for(more, seconds=60)


def rename(pipeline: Pipeline, name: str) -> None:
    """Give the group another name in its configuration."""
    config = pipeline.group.config
    config.write_text(config.read_text().replace(f'group = "{pipeline.name}"', f'group = "{name}"'))
    pipeline.name = pipeline.group.name = name
    pipeline.group.topic, pipeline.group.slot = f"{name}.log", f"cdc_{name}"


def answers(dsn: str, statements: str) -> list[str]:
    """The first column of what each statement answers; each is a transaction of its own."""
    found = []
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements.split(";\n"):
            answer = connection.execute(statement)
            found += [str(value) for value, *_ in (answer.fetchall() if answer.description else [])]
    return found


def test_a_group_whose_slot_is_lost_is_followed_by_a_new_one(
    pipelines: Pipelines, own_postgres: OwnPostgres, tmp_path: Path
):
    # Given a group whose leader has given up the slot, and a follower that led once and has a slot of its own.
    server = own_postgres(settings=SMALL_SLOTS)
    pipeline = ready(pipelines, server)
    old_slot = pipeline.group.slot
    pipeline.group.kill("capture")
    lose_slot(pipeline)
    pipeline.execute("INSERT INTO item VALUES (1001, 'in no log')")
    pipeline.start_capture()
    fatal(pipeline, "capture", "is lost (wal_removed)", "under another name", "ops/runbooks/new-group.md")
    assert "under another name" in pipeline.group.run("init").stderr
    for node in pipeline.nodes:
        assert pipeline.group.stop(f"apply {node}") == 0
    databases = {name: str(conninfo_to_dict(dsn)["dbname"]) for name, dsn in pipeline.nodes.items()}
    server_of = {name: make_conninfo(dsn, dbname="postgres") for name, dsn in pipeline.followers.items()}
    rows_of(pipeline.followers[FOLLOWER], f"SELECT pg_create_logical_replication_slot('{old_slot}', 'pgoutput')")

    # When the runbook is followed.
    made = ""
    for block in blocks("new-group.md"):
        text = "\n".join(block.lines)
        if block.language == "toml":
            rename(pipeline, f"{pipeline.name}2")
        elif block.language == "sh":
            for line in block.lines:
                run_line(pipeline, line, tmp_path)
        elif block.lines[0] == "-- on the leader":
            made = answers(pipeline.leader, text.replace("shop", pipeline.name))[-1]
        else:
            assert block.lines[0] == "-- on each follower"
            for name, dsn in server_of.items():
                there = text.replace(" shop", f' "{databases[name]}"').replace("'shop'", f"'{databases[name]}'")
                assert len(answers(dsn, there)) == (2 if name == FOLLOWER else 1), "a slot that it had, and the origin"
                run_sql(dsn, made.replace(databases[LEADER], f'"{databases[name]}"'))
    assert made

    # Then all rows are equal, those besides that are in no log, and nothing of the old group is left.
    run_sql(pipeline.leader, "INSERT INTO item VALUES (1002, 'in the new log')")
    pipeline.catch_up()
    pipeline.assert_equal()
    for name, dsn in pipeline.nodes.items():
        assert rows_of(dsn, f"SELECT FROM pg_replication_slots WHERE slot_name = '{old_slot}'") == [], name
    assert rows_of(pipeline.leader, "SELECT group_name, slot_name FROM cdc.identity") == [
        (pipeline.name, pipeline.group.slot)
    ]
    for dsn in server_of.values():
        gone = "SELECT FROM pg_replication_origin WHERE roname ~ '^cdc_' AND substr(roname, 5)::oid NOT IN"
        assert rows_of(dsn, f"{gone} (SELECT oid FROM pg_database)") == []


@pytest.mark.parametrize("document", [*RUNBOOKS, ROOT / "README.md"], ids=lambda path: path.name)
def test_every_command_that_is_named_exists(document: Path):
    text = document.read_text()
    named = re.findall(r"^(cdc [a-z].*)$|`(cdc [a-z][^`]*)`", text, re.MULTILINE)
    commands = [line or inline for line, inline in named]
    assert commands
    for command in commands:
        name, *arguments = shlex.split(command.replace("...", "NAME"), comments=True)[1:]
        known = every_command().get(name)
        assert known is not None, command
        options = {option for parameter in known.params for option in parameter.opts}
        unknown = {word for word in arguments if word.startswith("--")} - options
        assert not unknown, command
        assert isinstance(known, click.Command)
