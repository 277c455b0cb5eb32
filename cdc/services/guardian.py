"""What must stay as `cdc init` left it: the slot, the publication, the topic.

Looked at before capture starts and while it runs: a publication that lost a table, or a topic that is compacted, loses
changes without a word.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

import structlog

from cdc.capture_ports import (
    LeaderDatabase,
    LeaderIdentity,
    LeaderLook,
    LogTopic,
    Publication,
    PublishedTable,
    TopicFacts,
)
from cdc.errors import CdcError, PublicationError, TerminalError
from cdc.retry import Backoff
from cdc.services.meters import CaptureMeter
from cdc.services.resume import Place, check_slot, check_topic

log = structlog.get_logger(__name__)

LOOK_SECONDS = 5.0
"""A look is four queries of catalogs and two requests to Kafka."""
_CONFIRM_SECONDS = 1.0
"""What is wrong must be seen twice: a broker that has just started may not know its topics yet."""
_SAY_AGAIN_SECONDS = 60.0
_JOIN_SECONDS = 1.0
WAL_ALARM = 0.7
"""Of max_slot_wal_keep_size."""
_UNDO = "undo it; followers lack what was not published meanwhile: bootstrap them anew. If it is meant, run cdc init"


def check_publication(look: LeaderLook, place: Place) -> None:
    """Raises PublicationError when less is published than `cdc init` left, or other parts of it."""
    if look.published is None:
        raise PublicationError(
            f"publication {place.slot} does not exist: nothing is published",
            "run cdc init, which makes it; followers lack what was not published meanwhile: bootstrap them anew",
            place.leader,
        )
    if look.expected is None:
        return
    changes = [*_tables_changed(look, look.expected, look.published), *_options_changed(look.expected, look.published)]
    if changes:
        shown = "; ".join(changes[:3]) + (f"; and {len(changes) - 3} more" if len(changes) > 3 else "")
        raise PublicationError(f"publication {place.slot} was changed: {shown}", _UNDO, place.leader)


def _tables_changed(look: LeaderLook, expected: Publication, published: Publication) -> Iterator[str]:
    for oid, before in expected.tables.items():
        now = published.tables.get(oid)
        if now is None:
            if before.table in look.unpublished:
                yield f"table {before.table} is not in it any more"
        else:
            yield from _table_changed(before, now)


def _table_changed(before: PublishedTable, now: PublishedTable) -> Iterator[str]:
    if now.row_filter != before.row_filter:
        yield f"another row filter on {now.table}"
    elif now.columns != before.columns:
        yield f"another column list on {now.table}"
    elif now.entry != before.entry:
        yield f"table {now.table} was dropped from it and added again"


def _options_changed(expected: Publication, published: Publication) -> Iterator[str]:
    for name, value in expected.options.items():
        now = published.options.get(name, "")
        if now != value:
            yield f"{name} is {now or 'unset'}, was {value or 'unset'}"


def added_tables(look: LeaderLook) -> list[str]:
    """Published, but not by `cdc init`: followers lack the rows from before."""
    if look.expected is None or look.published is None:
        return []
    known = look.expected.tables
    return [str(t.table) for oid, t in look.published.tables.items() if oid not in known]


def slot_warning(wal_status: str | None, safe: int | None, keep: int | None) -> str | None:
    """Why the slot may soon be lost; None while it is safe. `safe` and `keep` as in SlotFacts."""
    if wal_status == "unreserved":
        return "the slot's WAL is past max_slot_wal_keep_size, the next checkpoint may remove it"
    if safe is None or not keep or safe > keep * (1 - WAL_ALARM):
        return None
    return f"the slot is lost after {max(0, safe) // 2**20} MB more of WAL (max_slot_wal_keep_size)"


def topic_warnings(topic: TopicFacts) -> dict[str, str]:
    """Settings that may lose records that a follower still needs, by their names."""
    found = {}
    if 0 <= topic.retention_ms < topic.wanted_retention_ms:
        found["retention.ms"] = (
            f"retention.ms is {topic.retention_ms}, less than kafka.retention_hours asks for: a follower that is away "
            "longer must be bootstrapped anew"
        )
    if topic.retention_bytes >= 0:
        found["retention.bytes"] = (
            f"retention.bytes is {topic.retention_bytes}: a burst of changes removes what a follower still needs"
        )
    if topic.unclean_election:
        found["unclean.leader.election.enable"] = (
            "unclean.leader.election.enable is true: a broker that lacks records may become the partition's leader"
        )
    return found


class Guardian:
    """A thread that looks at all of it while entered. What it finds that must not be, `check` raises."""

    def __init__(
        self,
        connect: Callable[[], LeaderDatabase],
        topic: LogTopic,
        identity: LeaderIdentity,
        place: Place,
        meter: CaptureMeter | None = None,
    ) -> None:
        """`connect` gives a connection for this thread alone; `meter` gets what each look saw."""
        self._meter = meter or CaptureMeter()
        self._connect = connect
        self._topic = topic
        self._identity = identity
        self._place = place
        self._found: Exception | None = None
        self._said: dict[str, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="guardian", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(_JOIN_SECONDS)

    def check(self) -> None:
        """Raises the TerminalError that was found, or what ended the thread."""
        if self._found is not None:
            raise self._found

    def inspect(self, leader: LeaderDatabase, topic: TopicFacts) -> None:
        """One look. Raises TerminalError; warns in the log of what may become one."""
        self._inspect_leader(leader)
        self._inspect_topic(topic)

    def _inspect_leader(self, leader: LeaderDatabase) -> None:
        leader.check_primary()
        look = leader.look(self._identity.group, self._place.slot)
        slot = check_slot(look.slot, self._place, look.slot_made_lsn)
        self._meter.slot = slot
        check_publication(look, self._place)
        warning = slot_warning(slot.wal_status, slot.safe_wal_bytes, slot.wal_keep_bytes)
        self._warn(warning, slot=self._place.slot, wal_status=slot.wal_status)
        if look.expected is None:
            self._warn("what is published is not written down, so changes of it go unseen: run cdc init again")
        for table in added_tables(look)[:5]:
            self._warn("a table was added to the publication: run cdc init, then bootstrap the followers", table=table)

    def _inspect_topic(self, topic: TopicFacts) -> None:
        self._meter.topic = topic
        check_topic(self._identity, topic, self._place)
        for text in topic_warnings(topic).values():
            self._warn(text, topic=self._place.topic)

    def _warn(self, text: str | None, **facts: object) -> None:
        now = time.monotonic()
        if text is not None and now - self._said.get(text[:40], -_SAY_AGAIN_SECONDS) >= _SAY_AGAIN_SECONDS:
            self._said[text[:40]] = now
            log.warning(text, **facts)

    def _run(self) -> None:
        backoff = Backoff(first=LOOK_SECONDS, cap=30.0)
        while not self._stop.is_set() and self._found is None:
            try:
                self._look_on(backoff)
            except CdcError as error:
                # The session itself meets whatever it cannot work with.
                log.debug("guardian interrupted", error=str(error))
                self._stop.wait(backoff.next_wait())
            except Exception as error:
                # A bug: the session must not go on unguarded without a word.
                self._found = error

    def _look_on(self, backoff: Backoff) -> None:
        leader = self._connect()
        suspected = False
        try:
            while not self._stop.wait(_CONFIRM_SECONDS if suspected else LOOK_SECONDS):
                try:
                    self._inspect_leader(leader)  # first: the slot keeps most while Kafka does not answer
                    self._inspect_topic(self._topic.describe())
                    suspected = False
                except TerminalError as error:
                    if suspected:
                        self._found = error
                        return
                    suspected = True
                backoff.reset()
        finally:
            leader.close()
