"""Lag is zero when nothing is pending, and never negative."""

from cdc.events.position import Position
from cdc.log.tail import LogTail
from cdc.ports import LeaderProgress
from cdc.protocol.lsn import Lsn
from cdc.services.lag import follower_hop, log_hop

TAIL = LogTail(1, Lsn(1000), Lsn(1050), 10_000_000, 7, 9, Lsn(0), 0)


def leader(insert_lsn: int, now_us: int) -> LeaderProgress:
    return LeaderProgress(Lsn(insert_lsn), now_us, Lsn(1050), True, 0, "reserved")


def follower(commit_lsn: int, committed_at_us: int, epoch: int = 1) -> Position:
    return Position(epoch, Lsn(commit_lsn), Lsn(commit_lsn + 50), committed_at_us, 3)


def test_an_idle_group_has_no_lag():
    hop = log_hop(leader(1050, 99_000_000), TAIL)
    assert (hop.lag_bytes, hop.lag_seconds) == (0, 0.0)
    hop = follower_hop("eu-west", follower(1000, 10_000_000), TAIL, 99_000_000)
    assert (hop.lag_bytes, hop.lag_seconds) == (0, 0.0)


def test_lag_rises_while_something_is_stuck():
    ages = [log_hop(leader(5000, now), TAIL).lag_seconds for now in (11_000_000, 12_500_000)]
    assert ages == [1.0, 2.5]
    ages = [
        follower_hop("eu-west", follower(400, 8_000_000), TAIL, now).lag_seconds for now in (11_000_000, 12_000_000)
    ]
    assert ages == [3.0, 4.0]


def test_clocks_that_step_back_give_no_negative_lag():
    assert log_hop(leader(5000, 1), TAIL).lag_seconds == 0.0


def test_a_leader_that_cannot_be_reached_leaves_its_hop_unknown():
    hop = log_hop(None, TAIL)
    assert (hop.lag_bytes, hop.lag_seconds) == (None, None)


def test_a_follower_of_an_older_epoch_is_behind():
    hop = follower_hop("eu-west", follower(2000, 8_000_000, epoch=0), TAIL, 9_000_000)
    assert hop.lag_seconds == 1.0
