"""A new epoch ends what the older one left unfinished."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cdc.local import PostgresServer
from cdc.log.envelope import Envelope, finished
from cdc.log.records import parse
from cdc.protocol.lsn import Lsn
from cdc.services.apply import ApplyLimits
from tests.support.pipeline import rows_of, run_sql
from tests.support.replay import FollowerInTest, LeaderInTest, collector_as_it_was

TABLE = "CREATE TABLE item (id int PRIMARY KEY)"


def epoch_record(epoch: int, commit_lsn: int, prev: int) -> bytes:
    envelope = Envelope("test", "test", "0", epoch)
    envelope.begin(0, commit_lsn, prev, 0, 0)
    return finished(envelope.epoch("other", "1", 1, "slot", epoch - 1, {}), commit_lsn + 1)[1]


@pytest.mark.parametrize("rows", [1, 20, 10_000], ids=["applied in pieces", "partly in pieces", "not applied yet"])
def test_transaction_that_was_unfinished_when_its_epoch_ended_never_was(
    leader_server: PostgresServer,
    follower_server: PostgresServer,
    new_database: Callable[[PostgresServer], str],
    rows: int,
):
    # Given a log with a whole transaction, all but the end of a second one, and a new epoch.
    databases = new_database(leader_server), new_database(follower_server)
    for dsn in databases:
        run_sql(dsn, TABLE)
    leader, follower = LeaderInTest(databases[0], ["item"]), FollowerInTest(databases[1], ["item"])
    start = leader.empty()
    follower.empty(start)
    leader.run(["INSERT INTO item VALUES (0)"])
    leader.run(["INSERT INTO item SELECT generate_series(1, 30)"])
    values = leader.records(start)
    leader.close()
    first, unfinished = (parse(values[index], 0)[1] for index in (1, -1))
    assert (first["seq"], unfinished["seq"]) == (1, 30)
    record = epoch_record(2, unfinished["commit_lsn"] - 1, first["commit_lsn"])

    # When a follower reads it.
    with collector_as_it_was():
        follower.apply([*values[:-1], record], ApplyLimits(rows=rows, fetch=7))

    # Then it holds the whole transaction only, and is in the new epoch.
    assert rows_of(follower.dsn, "SELECT id FROM item") == [(0,)]
    assert rows_of(follower.dsn, "SELECT epoch, commit_lsn::text FROM cdc.position") == [
        (2, str(Lsn(unfinished["commit_lsn"] - 1)))
    ]
