"""What `cdc check` reads of nodes and of Kafka; `connectors/` fills it in, `cdc/services/checks/` judges it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cdc.capture_ports import LeaderFacts, LeaderIdentity, LeaderLook, SystemFacts, TopicFacts
from cdc.errors import CdcError
from cdc.events.column_types import ColumnType
from cdc.events.table import TableId
from cdc.log.tail import LogTail
from cdc.ports import FollowerFacts, Leadership
from cdc.protocol.lsn import Lsn


@dataclass(frozen=True, slots=True)
class NodeColumn:
    """`type` as the log names it, `declared` as SQL writes it. `generated` is the expression, None for a column that
    takes values; `filled` says that an INSERT may leave it out."""

    name: str
    type: ColumnType
    declared: str
    not_null: bool
    filled: bool
    generated: str | None


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """Of a table to the table `target`; `definition` as SQL writes it."""

    name: str
    target: TableId
    definition: str


@dataclass(frozen=True, slots=True)
class NodeTable:
    """A table of the application, and what our role may do with it.

    `publishable`: it has a replica identity, so that the server takes UPDATE and DELETE of it once it is published;
    `whole_rows`: that is all of its columns. `generated_identity` are generated columns in it. `writable`: with the
    rights that an applier needs. `hides_rows`: a policy hides rows from our role. `firing` are triggers and rules that
    fire for an applier, too.
    """

    table: TableId
    columns: Mapping[str, NodeColumn]
    foreign_keys: tuple[ForeignKey, ...]
    firing: tuple[str, ...]
    generated_identity: tuple[str, ...]
    unlogged: bool
    owner: str
    owned: bool
    readable: bool
    writable: bool
    publishable: bool
    whole_rows: bool
    has_key: bool
    hides_rows: bool


DATABASE = "the database's own"


@dataclass(frozen=True, slots=True)
class CollationFacts:
    """How the database sorts text. `provider` as in pg_database (c, i, b); `version` is that of the rules now, None
    where they have none. `stale` are collations, DATABASE among them, that were made with another version."""

    name: str
    provider: str
    version: str | None
    stale: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """Any node, as far as it matters to both roles.

    `database_id` differs between any two databases. `clock_ahead` is by how many seconds its clock is ahead of ours,
    known to within `clock_error`. `types` maps enum types, composites and domains to their labels, in their order (no
    labels where it is no enum). `time_zones` maps the name of a zone to offsets of a few moments. `settings` are text
    as SHOW gives it.
    """

    name: str
    server: LeaderFacts
    system: SystemFacts
    database_id: tuple[str, int]
    minor_version: str
    clock_ahead: float
    clock_error: float
    settings: Mapping[str, str]
    tables: Mapping[TableId, NodeTable]
    sequences: Mapping[TableId, bool]
    """By name; whether our role may read its value."""
    extensions: frozenset[str]
    available_extensions: frozenset[str]
    types: Mapping[str, tuple[str, ...]]
    collation: CollationFacts
    time_zones: Mapping[str, str]
    large_objects: int
    leadership: Leadership


@dataclass(frozen=True, slots=True)
class WalKept:
    """WAL that a slot keeps on the leader's disk."""

    slot: str
    bytes: int
    active: bool


@dataclass(frozen=True, slots=True)
class LeaderNode:
    """The leader, with what `cdc init` left on it. `max_wal_bytes` is max_wal_size."""

    node: NodeFacts
    identity: LeaderIdentity | None
    look: LeaderLook
    wal_kept: tuple[WalKept, ...]
    max_wal_bytes: int


@dataclass(frozen=True, slots=True)
class LaterLook:
    """The log's end, read after the leader's slot, and how far its WAL is, read after that: on a leader at work only in
    this order each is as far as the one before."""

    tail: LogTail | None
    wal_lsn: Lsn


@dataclass(frozen=True, slots=True)
class ApplierRights:
    """What our role may do: act in the role replica, mark what it writes by a replication origin, make temporary
    tables, write the bookkeeping in schema cdc; and own the database, as a bootstrap must. `free_origins` counts
    replication origins that can be used, that of this database included."""

    replica_role: bool
    origin: bool
    temporary: bool
    bookkeeping: bool
    owner: bool
    free_origins: int


@dataclass(frozen=True, slots=True)
class FollowerNode:
    """A node that follows, or is to follow.

    `copy` is none, unfinished or finished, as its bootstrap wrote it down. `facts` are None as long as it holds no
    position and has not led. `foreign_objects` counts tables and views, `open_tables` take anybody's writes.
    """

    node: NodeFacts
    rights: ApplierRights
    copy: str
    facts: FollowerFacts | None
    next_offset: int | None
    foreign_objects: int
    open_tables: frozenset[TableId]

    @property
    def copied(self) -> bool:
        """Whether it holds the leader's rows as of some position."""
        return self.next_offset is not None


@dataclass(frozen=True, slots=True)
class NodeReading:
    """One node, read before it is known whether it leads."""

    as_leader: LeaderNode
    as_follower: FollowerNode


@dataclass(frozen=True, slots=True)
class KafkaFacts:
    """The topic and its log. `topic` is None as long as `cdc init` has not made it; `refusal` then says why the cluster
    would not make it. `log_problem` says why the log's end is not known though the topic is there."""

    topic: TopicFacts | None
    brokers: int
    refusal: CdcError | None = None
    tail: LogTail | None = None
    first_offset: int = 0
    log_problem: CdcError | None = None
