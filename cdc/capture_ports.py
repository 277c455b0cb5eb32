"""What capture and init need of the world, beside `cdc/ports.py`; `connectors/` implements it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from cdc.errors import CheckError
from cdc.events.table import TableId
from cdc.log.tail import LogTail
from cdc.protocol.lsn import Lsn

Record = tuple[bytes | None, bytes]
"""Key and value of a record of the log."""


@dataclass(frozen=True, slots=True)
class TopicFacts:
    """The topic as the cluster describes it. `topic_id` is None where the cluster has no topic ids."""

    topic_id: str | None
    partitions: int
    cleanup_policy: str
    max_message_bytes: int
    retention_ms: int = -1
    retention_bytes: int = -1
    """-1: no limit."""
    unclean_election: bool = False
    wanted_retention_ms: int = -1
    """What the configuration asks for."""
    min_insync_replicas: int = 1
    replicas: int = 1
    in_sync: int = 1
    """Replicas that have all that was acknowledged."""
    broker_times: bool = True
    """Records have the time at which the broker got them."""


@dataclass(frozen=True, slots=True)
class SystemFacts:
    """IDENTIFY_SYSTEM: which cluster this is, on which timeline, and how far its WAL is written."""

    system_id: str
    timeline: int
    wal_lsn: Lsn


@dataclass(frozen=True, slots=True)
class SlotFacts:
    """A row of pg_replication_slots. `invalidation` says why the slot is lost, None when it is not."""

    plugin: str | None
    database: str | None
    temporary: bool
    active_pid: int | None
    active_for: str | None
    confirmed_flush_lsn: Lsn
    restart_lsn: Lsn
    wal_status: str | None
    invalidation: str | None
    safe_wal_bytes: int | None = None
    """How much may still be written before the slot may be lost; None without a limit."""
    wal_keep_bytes: int | None = None
    """max_slot_wal_keep_size; None without a limit."""
    heard_of: str | None = None
    """When the server last heard of the process that uses the slot; None where our role may not know it."""
    retained_bytes: int | None = None
    """WAL that the server keeps for it; None when it is lost, or the server is a standby."""


@dataclass(frozen=True, slots=True)
class PublishedTable:
    """A table of the publication. `entry` is new when it was dropped from the publication and added again."""

    table: TableId
    entry: int
    columns: str | None
    row_filter: str | None


@dataclass(frozen=True, slots=True)
class Publication:
    """What is published. `tables` by OID, which outlives a new name; `options` by name, as text."""

    tables: Mapping[int, PublishedTable]
    options: Mapping[str, str]

    def check_whole(self, name: str, where: str) -> None:
        """Raises CheckError for a row filter or a column list: a follower that lacks rows or columns cannot take over,
        and a first copy would hold what the log says nothing of."""
        for published in self.tables.values():
            what = "row filter" if published.row_filter is not None else "column list"
            if published.row_filter is not None or published.columns is not None:
                raise CheckError(
                    f"publication {name} has a {what} on {published.table}: followers hold whole tables",
                    f"ALTER PUBLICATION {name} DROP TABLE and ADD TABLE it without, then run cdc init; bootstrap the "
                    "followers anew that were made with it",
                    where,
                )


@dataclass(frozen=True, slots=True)
class LeaderLook:
    """What feeds the log, as of one moment: the slot, what is published, and what `cdc init` left there.

    `slot_made_lsn` and `expected` are None where it left nothing. `unpublished` are the tables of `expected` that
    exist and are not published.
    """

    slot: SlotFacts | None
    slot_made_lsn: Lsn | None
    published: Publication | None
    expected: Publication | None
    unpublished: frozenset[TableId]


@dataclass(frozen=True, slots=True)
class LeaderIdentity:
    """What `cdc init` wrote down on the leader: whose log its slot feeds."""

    group: str
    epoch: int
    system_id: str
    timeline: int
    slot: str
    topic: str
    topic_id: str | None
    node: str = ""
    """Its name in the group; empty where an older version wrote it down."""


@dataclass(frozen=True, slots=True)
class LeaderFacts:
    """What must hold before anything is created on the leader."""

    database: str
    version: int
    wal_level: str
    in_recovery: bool
    free_slots: int
    free_wal_senders: int
    may_replicate: bool
    may_create: bool
    server_encoding: str
    role: str


@dataclass(frozen=True, slots=True)
class CandidateTable:
    """A table that the patterns match, and what would keep it from being published."""

    table: TableId
    owned: bool
    has_identity: bool


class ChangeStream(Protocol):
    """A replication connection. Not thread-safe."""

    backend_pid: int

    def identify(self) -> SystemFacts: ...

    def start(self, slot: str, publication: str, start_lsn: int) -> None:
        """Raises FencedError when the slot is in use, SlotError when it is missing or lost."""
        ...

    def read(self, max_bytes: int, timeout: float) -> list[bytes]:
        """CopyData payloads in order; empty after `timeout`. Where they come fast, some come together first, for
        milliseconds, and it may be empty sooner."""
        ...

    @property
    def gathers(self) -> bool:
        """Whether a `read` that begins now waits for that."""
        ...

    def send_status(self, written: int, flushed: int, applied: int, ask: bool = False) -> None:
        """Tell the server how far we are; zero tells it nothing. `ask` for an answer. Does not wait for the server."""
        ...

    def close(self) -> None: ...


class LeaderDatabase(Protocol):
    """An SQL connection to the leader. Not thread-safe."""

    def database(self) -> str: ...

    def identity(self, group: str) -> LeaderIdentity | None: ...

    def fenced(self, log: str) -> bool:
        """Whether a promotion has closed this node for writes, and the node is no follower yet."""
        ...

    def check_primary(self) -> None:
        """Raises RetryableError for a standby, to which a dsn of several hosts may lead for a while: it has no slot."""
        ...

    def slot(self, name: str) -> SlotFacts | None: ...

    def look(self, group: str, slot: str) -> LeaderLook:
        """`slot` is also the name of the publication."""
        ...

    def wal_lsn(self) -> Lsn:
        """How far the WAL is flushed."""
        ...

    def type_names(self) -> Mapping[int, str]:
        """Schema-qualified names of the built-in types by OID; the stream names the others."""
        ...

    def sequences(self) -> Mapping[TableId, int]:
        """The last value of every sequence that was used and that the role may read; of none while somebody has locked
        one, as a TRUNCATE that restarts it does: heartbeats do not wait for that."""
        ...

    def emit_message(self, prefix: str, content: bytes) -> Lsn:
        """A transactional logical message, committed; the LSN after it, which its commit record follows."""
        ...

    def close(self) -> None: ...


class LeaderSetup(LeaderDatabase, Protocol):
    """What `cdc init` does on the leader besides. Every step is a transaction, and may be repeated."""

    def facts(self) -> LeaderFacts: ...

    def system(self) -> SystemFacts: ...

    def candidates(self, patterns: Sequence[str]) -> list[CandidateTable]:
        """Tables that match; never those of system schemas or of ours, temporary or unlogged ones."""
        ...

    def published(self, publication: str) -> set[TableId] | None:
        """None when there is no such publication."""
        ...

    def publish(self, publication: str, tables: Sequence[TableId]) -> Mapping[TableId, bool]:
        """Create the publication, or set its tables. What `remember` stored of it is void from then on.

        Returns the tables that joined one which was there, and whether they hold rows that were never published.
        """
        ...

    def remember(self, group: str, slot: str) -> None:
        """Store where the slot began (once) and what is published now: what `look` compares with."""
        ...

    def store_identity(self, identity: LeaderIdentity) -> None: ...

    def create_slot(self, name: str) -> None:
        """Waits for the transactions that are running. Raises RetryableError when they do not end."""
        ...


class LogWriter(Protocol):
    """Publishes records in order; see connectors/kafka/producer.py."""

    @property
    def bytes_in_flight(self) -> int: ...

    @property
    def delivered(self) -> int:
        """The greatest `progress` such that its batch and every one before it is durable; 0 at first."""
        ...

    @property
    def deliveries(self) -> int:
        """How many batches are durable."""
        ...

    def publish(self, records: Sequence[Record], progress: int) -> None: ...

    def send(self) -> None:
        """What was published waits for nothing that may come after it."""
        ...

    def poll(self, timeout: float) -> None: ...

    def flush(self, timeout: float) -> bool: ...

    def close(self) -> None: ...


class TailReader(Protocol):
    """Where the log ends."""

    def read_tail(
        self, on_wait: Callable[[], None], *, depth_bytes: int = 0, back_to: int | None = None
    ) -> LogTail | None:
        """None when nothing was ever published. Looks back over at least `depth_bytes` of values, and to the offset
        `back_to`. `on_wait` is called again and again meanwhile."""
        ...

    def close(self) -> None: ...


class LogTopic(Protocol):
    """The topic as a thing that can be made and looked at."""

    def find(self) -> TopicFacts | None: ...

    def describe(self) -> TopicFacts:
        """Raises LogError when the topic does not exist."""
        ...

    def check_creatable(self) -> None:
        """Raises CheckError when the cluster would refuse to make it."""
        ...

    def create(self) -> bool:
        """False when it exists."""
        ...
