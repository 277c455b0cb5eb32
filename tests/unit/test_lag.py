"""Lag is zero when nothing is pending, rises while anything is stuck, and is never negative."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cdc.events.position import Position
from cdc.log.tail import LogTail
from cdc.ports import FollowerFacts, LeaderProgress, Leadership, NodeProgress
from cdc.protocol.lsn import Lsn
from cdc.services.lag import GroupLook, LagReport, LogLook, lag_report

TAIL = LogTail(1, Lsn(1000), Lsn(1050), 10_000_000, 70, 90, Lsn(0), 0)
NAMES = ("us-east", "eu-west")
RETENTION_MS = 3_600_000


def leader(insert_lsn: int = 1050, now_us: int = 10_500_000, received_lsn: int | None = 1050) -> LeaderProgress:
    received = None if received_lsn is None else Lsn(received_lsn)
    return LeaderProgress(Lsn(insert_lsn), now_us, Lsn(1050), True, 0, "reserved", None, None, received, 1)


def follower(commit_lsn: int = 1000, committed_at_us: int = 10_000_000, epoch: int = 1, offset: int = 70) -> Position:
    return Position(epoch, Lsn(commit_lsn), Lsn(commit_lsn + 50), committed_at_us, offset)


def node(leads: LeaderProgress | None = None, position: Position | None = None) -> NodeProgress:
    leadership = Leadership(leads.epoch if leads else None, False, None)
    return NodeProgress(leads, position, FollowerFacts(leadership, "", "", "backend 1", None, None, None, ()))


def look(leads: LeaderProgress | str, follows: Position | str, log: LogTail | str = TAIL, at: float = 0.0) -> GroupLook:
    nodes: dict[str, NodeProgress | str] = {
        "us-east": leads if isinstance(leads, str) else node(leads),
        "eu-west": follows if isinstance(follows, str) else node(position=follows),
    }
    return GroupLook(at, 99_000_000, log if isinstance(log, str) else LogLook(log, RETENTION_MS, ()), nodes)


def report(now: GroupLook, before: GroupLook | None = None) -> LagReport:
    return lag_report("shop", "us-east", NAMES, now, before)


def test_an_idle_group_has_no_lag():
    told = report(look(leader(now_us=99_000_000), follower()))
    assert told.problems == []
    for hop in (told.capture, told.log, *told.followers):
        assert (hop.lag_bytes, hop.lag_seconds, hop.total_bytes, hop.total_seconds) == (0, 0.0, 0, 0.0)
    assert told.followers[0].records == 0
    assert not told.worth_a_second_look()


def test_a_capture_that_stands_still_is_told_from_a_log_that_takes_nothing():
    stands = report(look(leader(5000, 12_000_000, 1050), follower()))
    assert (stands.capture.lag_bytes, stands.capture.lag_seconds) == (3950, 2.0)
    assert (stands.log.lag_bytes, stands.log.lag_seconds) == (0, 0.0)
    refused = report(look(leader(5000, 12_000_000, 5000), follower()))
    assert (refused.capture.lag_bytes, refused.capture.lag_seconds) == (0, 0.0)
    assert (refused.log.lag_bytes, refused.log.lag_seconds) == (3950, 2.0)
    for told in (stands, refused):
        assert (told.log.total_bytes, told.log.total_seconds) == (3950, 2.0)
        assert (told.followers[0].lag_seconds, told.followers[0].total_seconds) == (0.0, 2.0)


def test_lag_rises_while_something_is_stuck():
    ages = [report(look(leader(5000, now), follower())).log.total_seconds for now in (11_000_000, 12_500_000)]
    assert ages == [1.0, 2.5]
    behind = follower(400, 8_000_000, offset=30)
    told = [report(look(leader(now_us=now), behind)).followers[0] for now in (11_000_000, 12_000_000)]
    assert [(hop.lag_bytes, hop.lag_seconds, hop.records) for hop in told] == [(600, 3.0, 40), (600, 4.0, 40)]


def test_clocks_that_step_back_give_no_negative_lag():
    assert report(look(leader(5000, 1), follower())).log.total_seconds == 0.0


def test_without_the_leader_its_hops_are_unknown_and_the_rest_is_told():
    told = report(look("us-east: no answer", follower(400, 8_000_000, offset=30)))
    assert (told.capture.lag_bytes, told.log.lag_bytes, told.log.total_seconds) == (None, None, None)
    assert told.followers[0].lag_bytes == 600
    assert told.followers[0].lag_seconds == 91.0, "by this machine's clock"
    assert told.problems == ["us-east: no answer"]


def test_without_the_log_followers_are_compared_with_the_leader():
    told = report(look(leader(5000, 12_000_000), follower(400, 8_000_000), "the log: no answer"))
    hop = told.followers[0]
    assert (hop.lag_bytes, hop.lag_seconds, hop.records) == (None, None, None)
    assert (hop.total_bytes, hop.total_seconds) == (4550, 4.0)
    assert (told.leader_name, told.epoch) == ("us-east", 1)
    assert told.problems == ["the log: no answer"]


def test_without_the_log_the_node_of_the_newest_epoch_leads():
    now = look(leader(), follower(), "the log: no answer")
    nodes = {**now.nodes, "eu-west": node(replace(leader(), epoch=2))}
    assert report(replace(now, nodes=nodes)).leader_name == "eu-west"


def test_a_follower_of_an_older_epoch_is_behind_by_records_and_seconds():
    told = report(look(leader(now_us=9_000_000), follower(2000, 8_000_000, epoch=0, offset=60)))
    hop = told.followers[0]
    assert (hop.lag_bytes, hop.records, hop.lag_seconds, hop.total_seconds) == (None, 10, 1.0, 1.0)


def test_two_looks_tell_rates_and_when_a_follower_has_caught_up():
    then = look(leader(10_000, 11_000_000, 10_000), follower(1000, 8_000_000), replace(TAIL, end_lsn=Lsn(10_000)))
    tail = replace(TAIL, commit_lsn=Lsn(11_950), end_lsn=Lsn(12_000))
    now = look(leader(12_000, 13_000_000, 12_000), follower(7000, 9_000_000), tail, at=2.0)
    told = report(now, then)
    assert (told.wal_bytes_per_second, told.measured_seconds) == (1000.0, 2.0)
    assert told.followers[0].lag_bytes == 4950
    assert told.followers[0].catch_up_seconds == pytest.approx(4950 / 2000)
    slower = look(leader(12_000, 13_000_000, 12_000), follower(1500, 9_000_000), tail, at=2.0)
    assert report(slower, then).followers[0].catch_up_seconds is None


def test_a_slot_with_a_limit_says_how_long_it_lasts():
    then = look(leader(10_000), follower())
    now = look(replace(leader(12_000), safe_wal_bytes=500_000, wal_keep_bytes=2**20), follower(), at=2.0)
    assert report(now, then).slot_lost_seconds == 500.0
    assert report(now).slot_lost_seconds is None
    assert report(now).worth_a_second_look()


def test_retention_counts_down_for_a_follower_that_is_behind():
    behind = report(look(leader(now_us=3_010_000_000), follower(400, 10_000_000)))
    assert behind.followers[0].retention_left_seconds == 600.0
    assert any("eu-west is 0.8 h behind" in warning for warning in behind.warnings)
    assert report(look(leader(), follower())).followers[0].retention_left_seconds == 3600.0


def test_without_the_right_to_see_capture_the_log_has_all_of_the_lag():
    told = report(look(leader(5000, 12_000_000, None), follower()))
    assert (told.capture.lag_bytes, told.capture.position) == (None, "?")
    assert (told.log.lag_bytes, told.log.lag_seconds) == (3950, 2.0)
