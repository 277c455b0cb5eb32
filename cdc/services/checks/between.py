"""Checks of what a follower must share with the leader, and of its place in the log."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cdc.check_ports import FollowerNode, ForeignKey, LeaderNode, NodeColumn, NodeTable
from cdc.errors import CdcError
from cdc.events.quoting import quoted
from cdc.events.table import TableId
from cdc.ports import FOLLOWER_SESSION
from cdc.services.checks.check import Checks, Group, Verdict, failed, ok, refused, warning
from cdc.services.initialize import some

CLOCKS_SECONDS = 2.0
"""Lag in seconds is told by one clock where it can be; people compare logs of two."""


@dataclass(frozen=True, slots=True)
class Pair:
    """The leader and one follower."""

    leader: LeaderNode
    follower: FollowerNode

    @property
    def here(self) -> str:
        return self.follower.node.name


between: Checks[Pair] = Checks("between")


@between.check("database", "a leader that follows itself would apply each change again")
def database(pair: Pair, group: Group) -> Verdict:
    """leader and follower are two databases, on two servers"""
    if pair.leader.node.database_id == pair.follower.node.database_id:
        return failed("the same database", f"correct the dsn of {pair.here}")
    if pair.leader.node.system.system_id == pair.follower.node.system.system_id:
        return warning("on one server: what ends it ends both", "put the follower on a server of its own")
    return ok("two servers")


@between.check("version", "a first copy dumps with the leader's version, which an older server may not understand")
def version(pair: Pair, group: Group) -> Verdict:
    """the follower's version is not older than the leader's"""
    there, here = pair.leader.node, pair.follower.node
    told = f"leader {there.minor_version}, {pair.here} {here.minor_version}"
    if here.server.version // 10000 >= there.server.version // 10000:
        return ok(told)
    return warning(told, f"update {pair.here} first, and the leader after it")


@between.check("programs", "a first copy runs them, and no pg_dump dumps a server that is newer")
def programs(pair: Pair, group: Group) -> Verdict:
    """`pg_dump` and `psql` of the leader's version or newer are where `cdc check` runs; not needed once the follower is
    bootstrapped"""
    if pair.follower.copied:
        return ok("it is bootstrapped")
    if group.programs is None:
        return ok("pg_dump and psql are here")
    return warning(f"{group.programs.what} here", f"{group.programs.remedy}, where cdc bootstrap will run")


@between.check("encoding", "a character that the follower's encoding lacks stops its applier")
def encoding(pair: Pair, group: Group) -> Verdict:
    """the follower's encoding holds all of the leader's text"""
    there, here = pair.leader.node.server.server_encoding, pair.follower.node.server.server_encoding
    if here in (there, "UTF8"):
        return ok(f"leader {there}, {pair.here} {here}")
    return warning(
        f"leader {there}, {pair.here} {here}",
        f"CREATE DATABASE ... ENCODING '{there}' TEMPLATE template0, and bootstrap it as {pair.here}",
    )


@between.check(
    "collation", "queries sort otherwise on the follower; a key that ignores case or accents may take other values"
)
def collation(pair: Pair, group: Group) -> Verdict:
    """both sort text by the same rules, in the same version"""
    there, here = pair.leader.node.collation, pair.follower.node.collation
    if (there.provider, there.name) != (here.provider, here.name):
        return warning(
            f"leader {there.name} ({there.provider}), {pair.here} {here.name} ({here.provider})",
            f"CREATE DATABASE ... LOCALE as on the leader, TEMPLATE template0, and bootstrap it as {pair.here}",
        )
    if there.version and here.version and there.version != here.version:
        return warning(
            f"{there.name}: leader version {there.version}, {pair.here} {here.version}",
            "the same operating system on both, or a collation that does not change (C.UTF-8, builtin)",
        )
    return ok(f"{here.name}{f', version {here.version}' if here.version else ''}")


@between.check("extensions", "a first copy creates them; types and functions of tables may be theirs")
def extensions(pair: Pair, group: Group) -> Verdict:
    """the leader's extensions are there, or can be made"""
    there, here = pair.leader.node, pair.follower.node
    unknown = sorted(there.extensions - here.available_extensions - here.extensions)
    missing = sorted(there.extensions - here.extensions)
    if unknown:
        judge = warning if pair.follower.copied else failed
        return judge(
            f"not installed on the server of {pair.here}: {some(unknown)}", "install the packages that hold them there"
        )
    if missing and pair.follower.copied:
        return warning(
            f"not in the database: {some(missing)}", f"{FOLLOWER_SESSION}; CREATE EXTENSION {quoted(missing[0])}"
        )
    return ok(f"{len(there.extensions)} there" if pair.follower.copied else f"{len(there.extensions)} available")


@between.check("types", "a value of a label that is missing stops the applier")
def types(pair: Pair, group: Group) -> Verdict:
    """the leader's enums, domains and other types are there, each enum with all of its labels"""
    there, here = pair.leader.node.types, pair.follower.node.types
    if not pair.follower.copied:
        return ok("the bootstrap makes them")
    missing = sorted(there.keys() - here.keys())
    if missing:
        return warning(
            f"missing: {some(missing)}", f"{FOLLOWER_SESSION}; CREATE TYPE {missing[0]} as it is on the leader"
        )
    for name in sorted(there):
        label = next((label for label in there[name] if label not in here[name]), None)
        if label is not None:
            add = f"ALTER TYPE {name} ADD VALUE {_literal(label)}{_place(there[name], label)}"
            return failed(f"{name} has no label {_literal(label)}", f"{FOLLOWER_SESSION}; {add}")
    return ok(f"{len(there)}, with the same labels")


def _place(labels: tuple[str, ...], label: str) -> str:
    index = labels.index(label)
    return f" AFTER {_literal(labels[index - 1])}" if index else f" BEFORE {_literal(labels[1])}" if labels[1:] else ""


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


@between.check("columns", "the applier waits before a row that has no place here")
def columns(pair: Pair, group: Group) -> Verdict:
    """each published table is there, with each column, in a type that holds the leader's values"""
    if not pair.follower.copied:
        return ok("the bootstrap makes them")
    found = group.misplaced.get(pair.here, ())
    if isinstance(found, CdcError):
        return refused(found)
    if found:
        more = f"; and {len(found) - 1} tables more" if len(found) > 1 else ""
        return failed(found[0].what + more, found[0].remedy or "")
    unlike = [*_unlike(pair, group)]
    if unlike:
        return warning(
            f"not as on the leader: {some(unlike)}",
            f"make them equal before {pair.here} is promoted: its rows may then have no place on the others",
        )
    return ok(f"{sum(len(t.columns) for t in group.tables.values())} columns of {len(group.tables)} tables")


def _unlike(pair: Pair, group: Group) -> Iterator[str]:
    for there, here in _both(pair, group):
        for name in sorted(there.columns.keys() | here.columns.keys()):
            left, right = there.columns.get(name), here.columns.get(name)
            if left is None or right is None or left.declared != right.declared:
                yield f"{there.table}.{name} ({_declared(left)} there, {_declared(right)} here)"


def _declared(column: NodeColumn | None) -> str:
    return column.declared if column else "none"


@between.check("not_null", "the applier waits before a row whose NULL is refused here")
def not_null(pair: Pair, group: Group) -> Verdict:
    """no column is NOT NULL here that may be NULL on the leader, or that the leader lacks"""
    found: list[tuple[TableId, str]] = []
    for there, here in _both(pair, group):
        for name, column in here.columns.items():
            left = there.columns.get(name)
            if column.not_null and (not column.filled if left is None else not left.not_null):
                found.append((there.table, name))
    if not found:
        return ok("none more than on the leader")
    table, name = found[0]
    return failed(
        f"NOT NULL here: {some(f'{t}.{column}' for t, column in found)}",
        f"{FOLLOWER_SESSION}; ALTER TABLE {quoted(*table)} ALTER COLUMN {quoted(name)} DROP NOT NULL",
    )


@between.check("keys", "without an index on the key each change is a scan of the table")
def keys(pair: Pair, group: Group) -> Verdict:
    """tables that have a key on the leader have one here"""
    found = [there.table for there, here in _both(pair, group) if there.has_key and not here.has_key]
    if not found:
        return ok("the same tables have one")
    return warning(
        f"no key here: {some(found)}",
        f"{FOLLOWER_SESSION}; ALTER TABLE {quoted(*found[0])} ADD PRIMARY KEY (...) as on the leader",
    )


@between.check("generated", "each node computes generated columns itself: another expression gives other rows")
def generated(pair: Pair, group: Group) -> Verdict:
    """generated columns have the same expression"""
    found = [
        (there.table, name, column.generated)
        for there, here in _both(pair, group)
        for name, column in there.columns.items()
        if name in here.columns and column.generated != here.columns[name].generated
    ]
    if not found:
        return ok("the same")
    table, name, expression = found[0]
    told = some(f"{t}.{column}" for t, column, _ in found)
    how = f"GENERATED ALWAYS AS ({expression})" if expression else "which takes values"
    return failed(
        f"another expression here: {told}",
        f"{FOLLOWER_SESSION}; ALTER TABLE {quoted(*table)} DROP COLUMN {quoted(name)}, ADD COLUMN {quoted(name)} as "
        f"on the leader, {how}",
    )


@between.check("foreign_keys", "a follower that is promoted would take rows that the leader refuses")
def foreign_keys(pair: Pair, group: Group) -> Verdict:
    """the leader's foreign keys are there"""
    found = [
        (there.table, key)
        for there, here in _both(pair, group)
        for key in there.foreign_keys
        if _meaning(key) not in {_meaning(k) for k in here.foreign_keys}
    ]
    if not found:
        return ok("the same")
    table, key = found[0]
    return warning(
        f"missing: {some(f'{k.name} of {t}' for t, k in found)}",
        f"{FOLLOWER_SESSION}; ALTER TABLE {quoted(*table)} ADD CONSTRAINT {quoted(key.name)} {key.definition} NOT "
        "VALID; VALIDATE CONSTRAINT after a promotion",
    )


def _meaning(key: ForeignKey) -> tuple[TableId, str]:
    """An applier checks no foreign key, so there is no need for one to be validated on a follower."""
    return key.target, key.definition.removesuffix(" NOT VALID")


@between.check("sequences", "a promotion sets sequences: one that is missing begins where the leader's began")
def sequences(pair: Pair, group: Group) -> Verdict:
    """the leader's sequences are there"""
    if not pair.follower.copied:
        return ok("the bootstrap makes them")
    missing = sorted(pair.leader.node.sequences.keys() - pair.follower.node.sequences.keys())
    if not missing:
        return ok(f"{len(pair.leader.node.sequences)}")
    return warning(
        f"missing: {some(missing)}",
        f"{FOLLOWER_SESSION}; CREATE SEQUENCE {quoted(*missing[0])}, OWNED BY and as the DEFAULT of the same column",
    )


@between.check("position", "records that were removed before they were read are lost for this follower")
def position(pair: Pair, group: Group) -> Verdict | None:
    """the log still holds what the follower needs next"""
    offset = pair.follower.next_offset
    if offset is None or isinstance(group.kafka, CdcError) or group.kafka.tail is None:
        return None
    first = group.kafka.first_offset
    if offset >= first:
        return ok(f"offset {offset}, the log begins at {first}")
    return failed(
        f"needs offset {offset}, the log begins at {first}: retention has removed what lies between",
        f"raise retention.ms of the topic; drop and create the database, then cdc bootstrap --follower {pair.here}",
    )


@between.check("clocks", "lag in seconds, and who reads logs of both nodes, go by their clocks")
def clocks(pair: Pair, group: Group) -> Verdict:
    """the clocks of both servers agree"""
    there, here = pair.leader.node, pair.follower.node
    apart = here.clock_ahead - there.clock_ahead
    error = here.clock_error + there.clock_error
    told = f"{abs(apart):.1f} s {'ahead of' if apart > 0 else 'behind'} the leader's, to within {error:.1f} s"
    if abs(apart) <= CLOCKS_SECONDS + error:
        return ok(told)
    return warning(told, "set both clocks, and keep them right (chrony)")


@between.check("time_zones", "the same instant is shown as, and a local time taken for, another one")
def time_zones(pair: Pair, group: Group) -> Verdict:
    """both servers know the same rules of time zones"""
    there, here = pair.leader.node.time_zones, pair.follower.node.time_zones
    missing = sorted(there.keys() - here.keys())
    unlike = sorted(zone for zone in there.keys() & here.keys() if there[zone] != here[zone])
    remedy = f"update tzdata, or PostgreSQL where it brings its own, on {pair.here} and the leader"
    if unlike:
        return warning(f"other rules for {some(unlike)}", remedy)
    if missing:
        return warning(f"not known on {pair.here}: {some(missing)}", remedy)
    return ok(f"{len(there)} zones")


def _both(pair: Pair, group: Group) -> Iterator[tuple[NodeTable, NodeTable]]:
    """Published tables that both have."""
    if not pair.follower.copied:
        return
    for name, table in group.tables.items():
        if name in pair.follower.node.tables:
            yield table, pair.follower.node.tables[name]
