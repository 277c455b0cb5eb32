"""May capture go on? Decided from facts alone, before anything is published or confirmed."""

from __future__ import annotations

from dataclasses import dataclass

from cdc.capture_ports import LeaderIdentity, SlotFacts, SystemFacts, TopicFacts
from cdc.errors import NEW_GROUP, CheckError, FencedError, LogError, SlotError
from cdc.log.tail import LogTail
from cdc.protocol.lsn import Lsn


@dataclass(frozen=True, slots=True)
class Place:
    """Names for messages: where the leader and the log are."""

    leader: str
    topic: str
    slot: str


def check_identity(identity: LeaderIdentity | None, system: SystemFacts, place: Place) -> LeaderIdentity:
    """Raises CheckError when `cdc init` never ran here, SlotError when this is not the cluster that it knew."""
    if identity is None:
        raise CheckError("this database leads no log of the group", "run cdc init", place.leader)
    if identity.system_id != system.system_id:
        raise SlotError(
            f"this is another cluster (system identifier {system.system_id}) than cdc init saw ({identity.system_id})",
            f"connect to the right server, or {NEW_GROUP}",
            place.leader,
        )
    if identity.timeline != system.timeline:
        raise SlotError(
            f"the leader is on timeline {system.timeline}, cdc init saw {identity.timeline}: it was restored, or "
            "replaced by a standby, which may lack what the log holds",
            NEW_GROUP,
            place.leader,
        )
    return identity


def check_topic(identity: LeaderIdentity, topic: TopicFacts, place: Place) -> None:
    """Raises LogError when the topic is not the one that cdc init made, or cannot hold a log."""
    if topic.topic_id is not None and identity.topic_id is not None and topic.topic_id != identity.topic_id:
        raise LogError(
            f"the topic was deleted and made anew (id {topic.topic_id}, cdc init saw {identity.topic_id})",
            NEW_GROUP,
            f"topic {place.topic}",
        )
    if topic.partitions != 1:
        raise LogError(f"the topic has {topic.partitions} partitions, a log has one", NEW_GROUP, f"topic {place.topic}")
    if "compact" in topic.cleanup_policy:
        raise LogError(
            f"cleanup.policy is {topic.cleanup_policy}: compaction removes changes that followers need",
            "set it to delete; a follower that compaction has left a gap for stops and must be bootstrapped anew",
            f"topic {place.topic}",
        )


_LOST = {
    "wal_removed": (
        "the WAL that the log needs was removed, as it was more than max_slot_wal_keep_size",
        "raise max_slot_wal_keep_size",
    ),
    "rows_removed": (
        "rows of the catalog that decoding needs were removed",
        "set hot_standby_feedback = on where the slot is on a standby",
    ),
    "wal_level_insufficient": ("wal_level was less than logical", "set wal_level = logical"),
    "idle_timeout": (
        "nobody used it for as long as idle_replication_slot_timeout allows",
        "raise idle_replication_slot_timeout, or keep capture running",
    ),
}
"""Why PostgreSQL invalidates a slot (pg_replication_slots.invalidation_reason), and what keeps the next one."""


def check_slot(slot: SlotFacts | None, place: Place, made_lsn: Lsn | None = None) -> SlotFacts:
    """Raises SlotError when the slot is gone or lost, or is further back than `made_lsn`, where it began."""
    if slot is None:
        raise SlotError(
            f"replication slot {place.slot} does not exist: changes since it was dropped are not in the log",
            f"do not make it anew; {NEW_GROUP}",
            place.leader,
        )
    if slot.invalidation is not None:
        why, remedy = _LOST.get(slot.invalidation, ("the server says no more", "see the server's log"))
        raise SlotError(
            f"replication slot {place.slot} is lost ({slot.invalidation}): {why}",
            f"{remedy}; then {NEW_GROUP}",
            place.leader,
        )
    if made_lsn is not None and slot.confirmed_flush_lsn < made_lsn:
        raise SlotError(
            f"replication slot {place.slot} is at {slot.confirmed_flush_lsn}, cdc init made it at {made_lsn}: the "
            "leader was restored to an older state, or the slot made anew",
            NEW_GROUP,
            place.leader,
        )
    return slot


def check_tail(tail: LogTail | None, identity: LeaderIdentity, slot: SlotFacts, wal_lsn: Lsn, place: Place) -> LogTail:
    """Raises what says that going on would leave a gap, or write into a log that has another leader.

    `wal_lsn` is how far the leader's WAL is flushed, asked after the tail was read.
    """
    where = f"topic {place.topic}"
    if tail is None:
        raise LogError(
            "the log is empty, not even cdc init's record is there",
            f"if cdc init was interrupted, run it again; if records were deleted, {NEW_GROUP}",
            where,
        )
    if tail.epoch > identity.epoch:
        raise FencedError(
            f"the log is in epoch {tail.epoch}, this leader's is {identity.epoch}: another node leads now",
            "stop capture here; this node can come back as a follower",
            where,
        )
    if tail.epoch < identity.epoch:
        raise CheckError(
            f"the log is in epoch {tail.epoch}, this leader's is {identity.epoch}: its beginning was not written",
            "run the interrupted command again",
            where,
        )
    if slot.confirmed_flush_lsn > tail.end_lsn:
        raise SlotError(
            f"slot {place.slot} is confirmed up to {slot.confirmed_flush_lsn}, the log ends at {tail.end_lsn}: changes "
            "between them are in neither, because the slot was dropped and made anew, or somebody else read from it, "
            "or the log was cut",
            f"find out who did it; {NEW_GROUP}",
            place.leader,
        )
    if wal_lsn < tail.end_lsn:
        raise LogError(
            f"the leader's WAL ends at {wal_lsn}, the log at {tail.end_lsn}: the leader was restored to an older state",
            NEW_GROUP,
            place.leader,
        )
    return tail
