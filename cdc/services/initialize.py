"""`cdc init`: publication, topic, identity, slot, and the `epoch` record that begins the log.

In this order, because each is of no use without the one before: decoding needs the publication from the slot's
first byte on, the identity names the topic, and the log may begin only where the slot does. Every step may be
repeated, so a run that was killed is completed by another one. Nothing is made before everything is checked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass

from cdc import __version__
from cdc.capture_ports import (
    CandidateTable,
    LeaderFacts,
    LeaderIdentity,
    LeaderSetup,
    LogTopic,
    LogWriter,
    Publication,
    SlotFacts,
    SystemFacts,
    TailReader,
    TopicFacts,
)
from cdc.errors import CheckError, PublicationError, RetryableError
from cdc.events.quoting import quoted
from cdc.events.table import TableId
from cdc.log.envelope import Envelope, finished
from cdc.log.tail import LogTail
from cdc.protocol.lsn import Lsn
from cdc.services.guardian import check_publication
from cdc.services.resume import Place, check_slot, check_tail

FIRST_EPOCH = 1
OLDEST_VERSION = 140000
_PUBLISH_SECONDS = 30.0
_PLUGIN = "pgoutput"
_NEW_GROUP = "choose another group name, or remove the old one's slot, identity (cdc.identity) and topic"


@dataclass(frozen=True, slots=True)
class InitializeSettings:
    """`leader` is the node's name; `slot` is also the name of the publication; `tables` are patterns."""

    group: str
    leader: str
    topic: str
    slot: str
    tables: Sequence[str]


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that `cdc init` sees to. `made` is False when it was there already."""

    name: str
    detail: str
    made: bool


@dataclass(frozen=True, slots=True)
class _Found:
    """What is there before anything is made."""

    system: SystemFacts
    tables: list[TableId]
    published: set[TableId] | None
    changed: str
    """How the publication differs from what the run before left; it is taken as it is."""
    topic: TopicFacts | None
    identity: LeaderIdentity | None
    slot: SlotFacts | None
    tail: LogTail | None


class Initializer:
    """Prepares the leader and the topic of one group."""

    def __init__(
        self,
        settings: InitializeSettings,
        leader: Callable[[], LeaderSetup],
        topic: LogTopic,
        tail_reader: Callable[[], TailReader],
        writer: Callable[[int], LogWriter],
    ) -> None:
        """The callables connect; `writer` gets the topic's max.message.bytes."""
        self._settings = settings
        self._leader = leader
        self._topic = topic
        self._tail_reader = tail_reader
        self._writer = writer
        self._place = Place(settings.leader, settings.topic, settings.slot)

    def run(self) -> list[Step]:
        """Raises CheckError, with nothing made, when a requirement is not met; SlotError or LogError when the log
        of this group exists and cannot go on; RetryableError when a server is not there or too slow."""
        with closing(self._leader()) as leader:
            found = self._look(leader)
            steps = [*self._publication(leader, found), self._make_topic()]
            identity, identity_step = self._identity(leader, found)
            steps.append(identity_step)
            steps.append(self._slot(leader, found))
            leader.remember(self._settings.group, self._settings.slot)
            steps.append(self._begin_log(leader, identity, found))
        return steps

    def _look(self, leader: LeaderSetup) -> _Found:
        where = self._settings.leader
        candidates = leader.candidates(self._settings.tables)
        facts = leader.facts()
        slot = leader.slot(self._settings.slot)
        check_leader(facts, slot, where)
        check_tables(candidates, self._settings.tables, where)
        topic = self._topic.find()
        identity = leader.identity(self._settings.group)
        system = leader.system()
        tail = self._tail() if topic is not None else None
        self._check_topic(topic, identity)
        check_slot_owner(slot, identity, facts.database, self._place)
        self._check_log(identity, slot, tail, leader.wal_lsn())
        tables = [candidate.table for candidate in candidates]
        return _Found(
            system,
            tables,
            leader.published(self._settings.slot),
            self._publication_changed(leader),
            topic,
            identity,
            slot,
            tail,
        )

    def _publication_changed(self, leader: LeaderSetup) -> str:
        try:
            look = leader.look(self._settings.group, self._settings.slot)
            if look.published is not None:
                _check_options(look.published, self._place)
                look.published.check_whole(self._place.slot, self._place.leader)
                check_publication(look, self._place)
        except PublicationError as error:
            return f", taken as it is now ({error.what})"
        return ""

    def _tail(self) -> LogTail | None:
        with closing(self._tail_reader()) as reader:
            return reader.read_tail(lambda: None)

    def _check_topic(self, topic: TopicFacts | None, identity: LeaderIdentity | None) -> None:
        where = f"topic {self._settings.topic}"
        if topic is None:
            if identity is not None:
                raise CheckError("the topic of this group was deleted", _NEW_GROUP, where)
            self._topic.check_creatable()
            return
        if topic.partitions != 1:
            raise CheckError(
                f"the topic has {topic.partitions} partitions, a log has one",
                "delete the topic, cdc init makes it",
                where,
            )
        if topic.cleanup_policy != "delete":
            raise CheckError(
                f"cleanup.policy is {topic.cleanup_policy}: compaction removes changes", "set it to delete", where
            )
        known = identity.topic_id if identity is not None else None
        if known is not None and topic.topic_id is not None and known != topic.topic_id:
            raise CheckError("the topic was deleted and made anew", _NEW_GROUP, where)

    def _check_log(
        self,
        identity: LeaderIdentity | None,
        slot: SlotFacts | None,
        tail: LogTail | None,
        wal_lsn: Lsn,
    ) -> None:
        if tail is None:
            return
        if identity is None:
            raise CheckError(
                "the topic holds a log, but this database does not lead it", _NEW_GROUP, f"topic {self._settings.topic}"
            )
        check_tail(tail, identity, check_slot(slot, self._place), wal_lsn, self._place)

    def _publication(self, leader: LeaderSetup, found: _Found) -> list[Step]:
        detail = f"{self._settings.slot} with {len(found.tables)} tables"
        if found.published == set(found.tables):
            return [Step("publication", detail + found.changed, made=bool(found.changed))]
        joined = leader.publish(self._settings.slot, found.tables)
        tables = [Step("table", _joined(table, holds_rows), made=True) for table, holds_rows in joined.items()]
        return [Step("publication", detail, made=True), *tables]

    def _make_topic(self) -> Step:
        return Step("topic", self._settings.topic, made=self._topic.create())

    def _identity(self, leader: LeaderSetup, found: _Found) -> tuple[LeaderIdentity, Step]:
        topic = self._topic.describe()
        settings = self._settings
        if found.identity is not None:
            return found.identity, Step("identity", _told(found.identity), made=False)
        identity = LeaderIdentity(
            settings.group,
            FIRST_EPOCH,
            found.system.system_id,
            found.system.timeline,
            settings.slot,
            settings.topic,
            topic.topic_id,
            settings.leader,
        )
        leader.store_identity(identity)
        return identity, Step("identity", _told(identity), made=True)

    def _slot(self, leader: LeaderSetup, found: _Found) -> Step:
        name = self._settings.slot
        if found.slot is not None:
            return Step("slot", name, made=False)
        leader.create_slot(name)
        return Step("slot", name, made=True)

    def _begin_log(self, leader: LeaderSetup, identity: LeaderIdentity, found: _Found) -> Step:
        if found.tail is not None:
            return Step("log", f"epoch {found.tail.epoch}, up to {found.tail.end_lsn}", made=False)
        slot = check_slot(leader.slot(self._settings.slot), self._place)
        start_lsn = slot.confirmed_flush_lsn
        now_us = time.time_ns() // 1000
        envelope = Envelope(self._settings.group, leader.database(), __version__, identity.epoch)
        envelope.begin(0, start_lsn - 1, 0, now_us, now_us)
        record = envelope.epoch(self._settings.leader, identity.system_id, identity.timeline, identity.slot, 0, {})
        with closing(self._writer(self._topic.describe().max_message_bytes)) as writer:
            writer.publish([finished(record, start_lsn)], start_lsn)
            if not writer.flush(_PUBLISH_SECONDS):
                raise RetryableError(
                    "the first record of the log is not acknowledged",
                    "see that min.insync.replicas brokers run, then repeat",
                    f"topic {self._settings.topic}",
                )
        return Step("log", f"epoch {identity.epoch}, from {start_lsn}", made=True)


def check_leader(facts: LeaderFacts, slot: SlotFacts | None, where: str) -> None:
    """Raises CheckError when the server or the role cannot do logical replication."""
    for error in leader_problems(facts, slot, where).values():
        raise error


def leader_problems(facts: LeaderFacts, slot: SlotFacts | None, where: str) -> dict[str, CheckError]:
    """What keeps server and role from logical replication, by the requirement that is not met."""
    found: dict[str, CheckError] = {}
    if facts.version < OLDEST_VERSION:
        found["version"] = CheckError(f"PostgreSQL {facts.version // 10000} is too old", "use 14 or newer", where)
    if facts.in_recovery:
        found["primary"] = CheckError("the server is a standby", "name the primary in the dsn", where)
    if facts.wal_level != "logical":
        found["wal_level"] = CheckError(
            f"wal_level is {facts.wal_level}",
            "set wal_level = logical (ALTER SYSTEM SET wal_level = 'logical') and restart the server",
            where,
        )
    if not facts.may_replicate:
        found["role"] = CheckError(
            "the role may not replicate",
            f"ALTER ROLE {quoted(facts.role)} REPLICATION (on managed servers: grant the provider's role for it)",
            where,
        )
    if not facts.may_create:
        found["create"] = CheckError(
            "the role may not create a schema or a publication",
            f"GRANT CREATE ON DATABASE {quoted(facts.database)} TO {quoted(facts.role)}",
            where,
        )
    if slot is None and facts.free_slots < 1:
        found["slots"] = CheckError("no replication slot is free", raise_limit("max_replication_slots"), where)
    if facts.free_wal_senders < 1:
        found["wal_senders"] = CheckError("no walsender is free", raise_limit("max_wal_senders"), where)
    return found


def raise_limit(setting: str) -> str:
    return f"raise {setting} (ALTER SYSTEM SET {setting} = ...) and restart the server"


def check_slot_owner(slot: SlotFacts | None, identity: LeaderIdentity | None, database: str, place: Place) -> None:
    """Raises CheckError when a slot of our name is there and not ours."""
    if slot is None:
        return
    if slot.plugin != _PLUGIN or slot.database != database or slot.temporary:
        raise CheckError(
            f"replication slot {place.slot} exists and is not ours: plugin {slot.plugin}, database {slot.database}",
            "drop it if nobody needs it, or choose another group name",
            place.leader,
        )
    if identity is None:
        raise CheckError(
            f"replication slot {place.slot} exists, but cdc init did not make it",
            "drop it if nobody needs it, or choose another group name",
            place.leader,
        )


def check_tables(candidates: Sequence[CandidateTable], patterns: Sequence[str], where: str) -> None:
    """Raises CheckError when there is nothing to publish, or publishing would break the application's writes."""
    for error in table_problems(candidates, patterns, where).values():
        raise error


def table_problems(candidates: Sequence[CandidateTable], patterns: Sequence[str], where: str) -> dict[str, CheckError]:
    """What keeps tables from being published, by the requirement that is not met.

    A table without replica identity takes only inserts once it is published; who names it and not a pattern knows.
    """
    found: dict[str, CheckError] = {}
    if not candidates:
        found["tables"] = CheckError(
            f"no table matches {', '.join(patterns)}", "create the tables first, or correct capture.tables", where
        )
    foreign = [str(candidate.table) for candidate in candidates if not candidate.owned]
    if foreign:
        found["owner"] = CheckError(
            f"the role does not own {some(foreign)}",
            "only an owner publishes a table: grant the owning role, or narrow capture.tables",
            where,
        )
    without = [str(c.table) for c in candidates if not c.has_identity and str(c.table) not in patterns]
    if without:
        found["replica_identity"] = CheckError(
            f"no replica identity: {some(without)}; once published, the server refuses UPDATE and DELETE on them",
            "add a primary key, or ALTER TABLE ... REPLICA IDENTITY FULL, or name the table itself in capture.tables "
            "if it takes inserts only",
            where,
        )
    return found


def _check_options(published: Publication, place: Place) -> None:
    """Raises CheckError when partitions are published as their root: a TRUNCATE of one of them is then never sent."""
    if published.options.get("publish_via_partition_root") == "true":
        raise CheckError(
            f"publication {place.slot} has publish_via_partition_root: a TRUNCATE of a partition would be lost",
            f"ALTER PUBLICATION {place.slot} SET (publish_via_partition_root = false)",
            place.leader,
        )


def _joined(table: TableId, holds_rows: bool) -> str:
    """What a table that joins a running group still needs."""
    if not holds_rows:
        return f"{table} joins, and is empty: make it on each follower, too"
    return (
        f"{table} joins; followers do not get the rows that it holds. To do: make it on each follower, and run "
        f"cdc bootstrap --follower NAME --tables {table}; or write its rows anew on the leader, in one transaction "
        "that copies them aside, truncates the table and inserts them"
    )


def some(names: Iterable[object]) -> str:
    """The first few."""
    listed = [str(name) for name in names]
    shown = ", ".join(listed[:5])
    return shown if len(listed) <= 5 else f"{shown} and {len(listed) - 5} more"


def _told(identity: LeaderIdentity) -> str:
    return f"system {identity.system_id}, timeline {identity.timeline}, epoch {identity.epoch}"
