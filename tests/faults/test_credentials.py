"""Passwords are changed while the daemons run: they say so, wait, and go on when they are let in again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cdc.local.processes import wait_for
from tests.fixtures.pipeline import Pipelines
from tests.fixtures.servers import OwnPostgres
from tests.support.bank import BANK, Bank, BankWatch
from tests.support.pipeline import FOLLOWER, LEADER, Pipeline, run_sql

pytestmark = pytest.mark.faults

DAEMONS = (f"apply {FOLLOWER}", "capture")
OLD, NEW = "old-secret-1", "new-secret-2"
END_SESSIONS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'daemon'"
END_THOSE_OF_APPLY = f"{END_SESSIONS} AND application_name LIKE 'cdc apply%'"


def refusals(pipeline: Pipeline, daemon: str) -> int:
    lines = pipeline.log_of(daemon).splitlines()
    return sum("blocked until somebody acts" in line and "login refused" in line for line in lines)


def test_a_password_that_is_changed_is_told_and_read_again(
    pipelines: Pipelines, own_postgres: OwnPostgres, tmp_path: Path
):
    # Given daemons that log in by a role of their own and a password file
    server = own_postgres(authentication="scram-sha-256")
    pipeline = pipelines.new(*BANK, leader=server, follower=server).init().bootstrap()
    run_sql(server.dsn(), f"CREATE ROLE daemon SUPERUSER REPLICATION LOGIN PASSWORD '{OLD}'")
    passfile = tmp_path / "pgpass"
    passfile.touch(mode=0o600)
    passfile.write_text(f"*:*:*:daemon:{OLD}\n")
    databases = {LEADER: pipeline.leader, FOLLOWER: pipeline.followers[FOLLOWER]}
    nodes = {
        name: {"dsn": server.dsn(dsn.rpartition("/")[2], user="daemon", password="") + f"?passfile={passfile}"}
        for name, dsn in databases.items()
    }
    for daemon in DAEMONS:
        pipeline.group.environment[daemon] = {"CDC_NODES": json.dumps(nodes)}
    pipeline.start()
    with BankWatch(pipeline.followers[FOLLOWER]) as watch:
        with Bank(pipeline.leader) as bank:
            bank.transacts(30)
            pipeline.catch_up()

            # When the password is changed on the server first, as everybody does it,
            run_sql(server.dsn(), f"ALTER ROLE daemon PASSWORD '{NEW}'")

            # then both say so more than once, the applier first (without capture it does not use its session), run on,
            for daemon, end in zip(DAEMONS, (END_THOSE_OF_APPLY, END_SESSIONS), strict=True):
                run_sql(server.dsn(), end)
                assert wait_for(lambda: refusals(pipeline, daemon) > 1, seconds=30), pipeline.log_of(daemon)  # noqa: B023
            pipeline.check_running(*DAEMONS)

            # and go on by themselves once the file is right.
            passfile.write_text(f"*:*:*:daemon:{NEW}\n")
            bank.transacts(30)
        pipeline.catch_up()
        watch.check()
    pipeline.assert_equal()
    for daemon in DAEMONS:
        assert OLD not in pipeline.log_of(daemon)
        assert NEW not in pipeline.log_of(daemon)
