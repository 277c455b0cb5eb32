"""Whether capture may go on: each fact that would leave a gap or double the log is a terminal error."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cdc.capture_ports import LeaderIdentity, SlotFacts, SystemFacts, TopicFacts
from cdc.errors import CdcError, CheckError, FencedError, LogError, SlotError
from cdc.log.tail import LogTail
from cdc.protocol.lsn import Lsn
from cdc.services.resume import Place, check_identity, check_slot, check_tail, check_topic

PLACE = Place("us-east", "shop.log", "cdc_shop")
SYSTEM = SystemFacts("70", 1, Lsn(1000))
IDENTITY = LeaderIdentity("shop", 2, "70", 1, "cdc_shop", "shop.log", "id1")
TOPIC = TopicFacts("id1", 1, "delete", 1_000_000)
SLOT = SlotFacts("pgoutput", "shop", False, None, None, Lsn(500), Lsn(400), "reserved", None)
TAIL = LogTail(2, Lsn(460), Lsn(500), 0, 7, 7, Lsn(0), 0)


def test_all_is_well() -> None:
    assert check_identity(IDENTITY, SYSTEM, PLACE) == IDENTITY
    check_topic(IDENTITY, TOPIC, PLACE)
    check_topic(IDENTITY, replace(TOPIC, topic_id=None), PLACE)
    assert check_slot(SLOT, PLACE) == SLOT
    assert check_tail(TAIL, IDENTITY, SLOT, Lsn(1000), PLACE) == TAIL


@pytest.mark.parametrize(
    ("identity", "system", "error", "words"),
    [
        (None, SYSTEM, CheckError, "leads no log"),
        (IDENTITY, replace(SYSTEM, system_id="71"), SlotError, "another cluster"),
        (IDENTITY, replace(SYSTEM, timeline=2), SlotError, "timeline 2"),
    ],
)
def test_another_leader(
    identity: LeaderIdentity | None, system: SystemFacts, error: type[CdcError], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        check_identity(identity, system, PLACE)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("topic", "words"),
    [
        (replace(TOPIC, topic_id="id2"), "made anew"),
        (replace(TOPIC, partitions=3), "3 partitions"),
        (replace(TOPIC, cleanup_policy="compact,delete"), "compaction removes"),
    ],
)
def test_another_topic(topic: TopicFacts, words: str) -> None:
    with pytest.raises(LogError, match=words) as caught:
        check_topic(IDENTITY, topic, PLACE)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("slot", "words"),
    [
        (None, "does not exist"),
        (replace(SLOT, invalidation="wal_removed"), r"lost \(wal_removed\): .*raise max_slot_wal_keep_size"),
        (replace(SLOT, invalidation="rows_removed"), r"lost \(rows_removed\): .*hot_standby_feedback"),
        (replace(SLOT, invalidation="wal_level_insufficient"), r"lost .*set wal_level = logical"),
        (replace(SLOT, invalidation="idle_timeout"), r"lost .*raise idle_replication_slot_timeout"),
        (replace(SLOT, invalidation="new_reason"), r"lost \(new_reason\)"),
        (replace(SLOT, confirmed_flush_lsn=Lsn(299)), "cdc init made it at"),
    ],
)
def test_a_slot_that_is_gone(slot: SlotFacts | None, words: str) -> None:
    with pytest.raises(SlotError, match=words) as caught:
        check_slot(slot, PLACE, Lsn(300))
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("tail", "slot", "wal_lsn", "error", "words"),
    [
        (None, SLOT, 1000, LogError, "empty"),
        (replace(TAIL, epoch=3), SLOT, 1000, FencedError, "epoch 3"),
        (replace(TAIL, epoch=1), SLOT, 1000, CheckError, "epoch 1"),
        (TAIL, replace(SLOT, confirmed_flush_lsn=Lsn(501)), 1000, SlotError, "in neither"),
        (TAIL, SLOT, 499, LogError, "older state"),
    ],
)
def test_a_log_that_does_not_fit(
    tail: LogTail | None, slot: SlotFacts, wal_lsn: int, error: type[CdcError], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        check_tail(tail, IDENTITY, slot, Lsn(wal_lsn), PLACE)
    assert caught.value.remedy
