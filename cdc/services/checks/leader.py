"""Checks of the node that leads, or is to lead. The capture role's connection is what they look through."""

from __future__ import annotations

from cdc.check_ports import LeaderNode
from cdc.errors import CdcError, PublicationError
from cdc.events.quoting import quoted
from cdc.services.checks import node as any_node
from cdc.services.checks.check import Checks, Group, Verdict, failed, judged, ok, raised, refused, warning
from cdc.services.guardian import added_tables, check_publication, slot_warning
from cdc.services.initialize import check_slot_owner, leader_problems, raise_limit, some, table_problems
from cdc.services.resume import check_identity, check_slot, check_tail

leader: Checks[LeaderNode] = Checks("leader")

_CAPTURE_OR_ANOTHER = "or name a role that may in the dsn of the configuration that cdc init gets"
_MB = 2**20
_SET_LIMIT = "ALTER SYSTEM SET max_slot_wal_keep_size = '...'; SELECT pg_reload_conf()"


def _problem(facts: LeaderNode, group: Group, requirement: str) -> CdcError | None:
    return leader_problems(facts.node.server, facts.look.slot, group.leader_name).get(requirement)


@leader.check("version", "an older server lacks what is used; some minor versions lose changes while they decode them")
def version(facts: LeaderNode, group: Group) -> Verdict:
    """PostgreSQL 14 to 18, in a minor version that decodes without loss"""
    return any_node.version(facts.node, _problem(facts, group, "version"))


@leader.check("primary", "a standby takes no writes, and has no publication of its own")
def primary(facts: LeaderNode, group: Group) -> Verdict:
    """the server is no standby"""
    return judged(_problem(facts, group, "primary"), "takes writes")


@leader.check("wal_level", "with less the WAL does not hold what decoding needs")
def wal_level(facts: LeaderNode, group: Group) -> Verdict:
    """`wal_level` is logical"""
    return judged(_problem(facts, group, "wal_level"), "logical")


@leader.check(
    "slots", "capture reads through a slot of its own; a first copy and a rejoin take another one for a moment"
)
def slots(facts: LeaderNode, group: Group) -> Verdict:
    """`max_replication_slots` leaves one free"""
    problem = _problem(facts, group, "slots")
    free, limit = facts.node.server.free_slots, facts.node.settings["max_replication_slots"]
    if problem is None and free < 1:
        return warning(
            f"the slot is there, and none of {limit} is free for a bootstrap", raise_limit("max_replication_slots")
        )
    return judged(problem, f"{free} of {limit} free")


@leader.check("wal_senders", "capture is a walsender; a first copy and a rejoin are another one for a moment")
def wal_senders(facts: LeaderNode, group: Group) -> Verdict:
    """`max_wal_senders` leaves one free"""
    problem = _problem(facts, group, "wal_senders")
    limit = facts.node.settings["max_wal_senders"]
    if problem and facts.look.slot and facts.look.slot.active_pid:
        return warning(f"capture runs, and none of {limit} is free for a bootstrap", raise_limit("max_wal_senders"))
    return judged(problem, f"{facts.node.server.free_wal_senders} of {limit} free")


@leader.check("role", "capture connects for replication")
def role(facts: LeaderNode, group: Group) -> Verdict:
    """our role has REPLICATION"""
    return judged(_problem(facts, group, "role"), f"{facts.node.server.role} may replicate")


@leader.check("create", "cdc init makes the schema cdc and the publication")
def create(facts: LeaderNode, group: Group) -> Verdict:
    """our role may create in the database; not needed any more once `cdc init` has run"""
    problem = _problem(facts, group, "create")
    if facts.identity is not None:
        return ok("cdc init has run")
    return judged(problem, f"{facts.node.server.role} may create in {facts.node.server.database}")


@leader.check("tables", "without tables there is nothing to replicate")
def tables(facts: LeaderNode, group: Group) -> Verdict:
    """`capture.tables` matches tables"""
    problem = table_problems(group.candidates, group.wanted.tables, group.leader_name).get("tables")
    return judged(problem, f"{len(group.tables)} tables")


@leader.check("owner", "only its owner may publish a table")
def owner(facts: LeaderNode, group: Group) -> Verdict:
    """our role owns the tables, or is a member of the role that does; not needed once they are published"""
    foreign = [t for t in group.tables.values() if not t.owned]
    if facts.look.published is not None:
        return ok("they are published")
    if not foreign:
        return ok(f"{facts.node.server.role} owns all of them")
    grants = "; ".join(
        f"GRANT {quoted(name)} TO {quoted(facts.node.server.role)}" for name in sorted({t.owner for t in foreign})
    )
    problem = table_problems(group.candidates, group.wanted.tables, group.leader_name)["owner"]
    return failed(problem.what, f"{grants}; {_CAPTURE_OR_ANOTHER}")


@leader.check("read", "a first copy reads every row; rows that a policy hides would be missing on the follower")
def read(facts: LeaderNode, group: Group) -> Verdict:
    """our role may read the tables, and no policy hides rows from it"""
    name = quoted(facts.node.server.role)
    closed = [t.table for t in group.tables.values() if not t.readable]
    hidden = [t.table for t in group.tables.values() if t.hides_rows]
    judge = failed if group.copies_are_due else warning
    if closed:
        return judge(f"{facts.node.server.role} may not read {some(closed)}", f"GRANT pg_read_all_data TO {name}")
    if hidden:
        return judge(f"policies hide rows of {some(hidden)}", f"ALTER ROLE {name} BYPASSRLS")
    return ok("all of them")


@leader.check("replica_identity", "once such a table is published, the server refuses UPDATE and DELETE of it")
def replica_identity(facts: LeaderNode, group: Group) -> Verdict:
    """each table has a replica identity, or is named itself in `capture.tables` as one that takes inserts only"""
    problem = table_problems(group.candidates, group.wanted.tables, group.leader_name).get("replica_identity")
    if problem is None:
        return ok("each table has one")
    first = next(c.table for c in group.candidates if not c.has_identity and str(c.table) not in group.wanted.tables)
    return failed(
        problem.what,
        f"add a primary key, or ALTER TABLE {quoted(*first)} REPLICA IDENTITY FULL, or name {first} itself in "
        "capture.tables if it takes inserts only",
    )


@leader.check("keys", "a follower finds a row of such a table by all of its columns, with a scan a change")
def keys(facts: LeaderNode, group: Group) -> Verdict:
    """each table has a key"""
    keyless = [t.table for t in group.tables.values() if t.whole_rows and not t.has_key]
    if not keyless:
        return ok("each table that is updated has one")
    table = quoted(*keyless[0])
    return warning(
        f"no key: {some(keyless)}",
        f"ALTER TABLE {table} ADD PRIMARY KEY (...), then ALTER TABLE {table} REPLICA IDENTITY DEFAULT",
    )


@leader.check("unlogged", "unlogged tables are not in the WAL, so their rows are on no follower")
def unlogged(facts: LeaderNode, group: Group) -> Verdict:
    """`capture.tables` matches no unlogged table"""
    found = [t.table for t in facts.node.tables.values() if t.unlogged and group.is_wanted(t.table)]
    if not found:
        return ok("none")
    return warning(f"not replicated: {some(found)}", f"ALTER TABLE {quoted(*found[0])} SET LOGGED, then cdc init")


@leader.check("generated", "the log does not hold the values of generated columns; each follower computes its own")
def generated(facts: LeaderNode, group: Group) -> Verdict:
    """no generated column is part of a replica identity"""
    found = {t.table: t.generated_identity for t in group.tables.values() if t.generated_identity}
    if found:
        table, columns = next(iter(found.items()))
        return failed(
            f"part of the identity of {some(found)}: {', '.join(columns)}",
            f"ALTER TABLE {quoted(*table)} REPLICA IDENTITY FULL, or USING INDEX one without such a column",
        )
    count = sum(column.generated is not None for t in group.tables.values() for column in t.columns.values())
    return ok(f"{count} columns, in no identity")


@leader.check("large_objects", "large objects are not decoded, so they are on no follower")
def large_objects(facts: LeaderNode, group: Group) -> Verdict:
    """the database holds no large objects"""
    count = facts.node.large_objects
    if not count:
        return ok("none")
    return warning(
        f"{count if count < 1000 else '1000 or more'} large objects, not replicated",
        "keep what followers need in bytea columns; those that nobody needs: SELECT lo_unlink(...)",
    )


@leader.check("sequences", "their values travel in the log, so that a promoted follower goes on from there")
def sequences(facts: LeaderNode, group: Group) -> Verdict:
    """our role may read the sequences"""
    closed = [name for name, readable in facts.node.sequences.items() if not readable]
    if not closed:
        return ok(f"{len(facts.node.sequences)} can be read")
    role = quoted(facts.node.server.role)
    return warning(
        f"{facts.node.server.role} may not read {some(closed)}",
        f"GRANT SELECT ON SEQUENCE {quoted(*closed[0])} TO {role}",
    )


@leader.check(
    "foreign_keys", "a first copy cannot build such a key, and a promoted follower would lack what it refers to"
)
def foreign_keys(facts: LeaderNode, group: Group) -> Verdict:
    """published tables refer to published tables only"""
    found = [(t, key) for t in group.tables.values() for key in t.foreign_keys if key.target not in group.tables]
    if not found:
        return ok(f"{sum(len(t.foreign_keys) for t in group.tables.values())} keys between published tables")
    table, key = found[0]
    judge = failed if group.copies_are_due else warning
    return judge(
        f"refer to tables that are not published: {some(f'{t.table} to {k.target}' for t, k in found)}",
        f"add {key.target} to capture.tables and run cdc init, or ALTER TABLE {quoted(*table.table)} DROP CONSTRAINT "
        f"{quoted(key.name)}",
    )


@leader.check("encoding", "records of the log are UTF-8: a row that is not stops capture")
def encoding(facts: LeaderNode, group: Group) -> Verdict:
    """the database's encoding says what its bytes mean"""
    name = facts.node.server.server_encoding
    if name != "SQL_ASCII":
        return ok(name)
    return warning("SQL_ASCII: any bytes may be in it", "move the data to a database WITH ENCODING 'UTF8'")


@leader.check("collation", any_node.COLLATION_WHY)
def collation(facts: LeaderNode, group: Group) -> Verdict:
    """collations are those with which the indexes were built"""
    return any_node.collation(facts.node)


@leader.check("identity", "capture feeds the log only from the server that cdc init saw, or a promotion chose")
def identity(facts: LeaderNode, group: Group) -> Verdict | None:
    """the server is the one that the group knows as its leader"""
    if facts.identity is None and not _log_has_begun(group):
        return ok("cdc init has not run yet")
    if facts.node.server.in_recovery:
        return None
    return raised(
        lambda: check_identity(facts.identity, facts.node.system, group.names),
        f"system {facts.node.system.system_id}, timeline {facts.node.system.timeline}",
    )


def _log_has_begun(group: Group) -> bool:
    return not isinstance(group.kafka, CdcError) and group.kafka.tail is not None


@leader.check("slot", "what was written since the slot's position is kept for the log; a slot that is lost loses it")
def slot(facts: LeaderNode, group: Group) -> Verdict:
    """the replication slot is ours, and not lost"""
    found, names = facts.look.slot, group.names

    def look() -> None:
        check_slot_owner(found, facts.identity, facts.node.server.database, names)
        if facts.identity is not None:
            check_slot(found, names, facts.look.slot_made_lsn)

    if found is None:
        return raised(look, "cdc init makes it")
    reader = found.active_for if found.active_pid else "nobody"
    return raised(look, f"{names.slot} at {found.confirmed_flush_lsn}, read by {reader}")


@leader.check("slot_wal", "while Kafka or capture is away WAL is kept for the slot: without a limit until the disk is "
              "full, with one until the slot is lost")  # fmt: skip
def slot_wal(facts: LeaderNode, group: Group) -> Verdict:
    """`max_slot_wal_keep_size` is set, and far"""
    limit = facts.node.settings["max_slot_wal_keep_size"]
    found = facts.look.slot
    near = found and slot_warning(found.wal_status, found.safe_wal_bytes, found.wal_keep_bytes)
    if near:
        return warning(near, f"start capture and Kafka, or {_SET_LIMIT}")
    if limit == "-1":
        return warning(
            "no limit: max_slot_wal_keep_size is -1",
            f"{_SET_LIMIT}; less than the disk has free, and more than the longest outage writes",
        )
    return ok(limit)


@leader.check("idle_slot_timeout", "a slot that nobody read for so long is lost")
def idle_slot_timeout(facts: LeaderNode, group: Group) -> Verdict:
    """`idle_replication_slot_timeout` (PostgreSQL 18) is off"""
    timeout = facts.node.settings.get("idle_replication_slot_timeout", "0")
    if timeout == "0":
        return ok("off")
    return warning(
        f"the slot is lost when capture is away for {timeout}",
        "ALTER SYSTEM SET idle_replication_slot_timeout = 0; SELECT pg_reload_conf()",
    )


@leader.check("sender_timeout", "without it the slot stays taken by a capture whose machine is gone, and a walsender "
              "looks for an answer after every message")  # fmt: skip
def sender_timeout(facts: LeaderNode, group: Group) -> Verdict:
    """`wal_sender_timeout` is on"""
    timeout = facts.node.settings["wal_sender_timeout"]
    if timeout == "0":
        return warning("off", "ALTER SYSTEM SET wal_sender_timeout = '60s'; SELECT pg_reload_conf()")
    return ok(timeout)


@leader.check("disk", "a slot that nobody reads keeps WAL until the disk of the leader is full")
def disk(facts: LeaderNode, group: Group) -> Verdict:
    """no slot keeps much more WAL than the server would anyway; how much is free PostgreSQL does not tell"""
    much = [kept for kept in facts.wal_kept if kept.bytes > facts.max_wal_bytes]
    if not much:
        most = max((kept.bytes for kept in facts.wal_kept), default=0)
        return ok(f"slots keep {most // _MB} MB of WAL")
    first = much[0]
    told = some(f"{kept.slot} keeps {kept.bytes // _MB} MB" for kept in much)
    if first.slot == group.wanted.slot:
        return warning(told, "start capture and Kafka; see that the disk has room until the log has it all")
    return warning(told, f"start its reader, or SELECT pg_drop_replication_slot('{first.slot}')")


@leader.check("publication", "what is not published never comes into the log")
def publication(facts: LeaderNode, group: Group) -> Verdict:
    """the publication holds what `cdc init` left in it, and all that `capture.tables` matches"""
    published = facts.look.published
    if published is None and facts.identity is None:
        return ok("cdc init makes it")
    if published is not None and published.options.get("publish_via_partition_root") == "true":
        return failed(
            "publish_via_partition_root is on: a TRUNCATE of one partition is not sent",
            f"ALTER PUBLICATION {quoted(group.wanted.slot)} SET (publish_via_partition_root = false)",
        )
    partial = [t for t in published.tables.values() if t.row_filter or t.columns] if published else []
    if partial:
        return failed(
            f"only some rows or columns of {some(t.table for t in partial)}",
            f"ALTER PUBLICATION {quoted(group.wanted.slot)} SET TABLE ... without filters and lists, then cdc init",
        )
    try:
        check_publication(facts.look, group.names)
    except PublicationError as error:
        return failed(error.what, error.remedy or "cdc init")
    here = {t.table for t in facts.node.tables.values() if not t.unlogged}
    missing = sorted(t for t in here if group.is_wanted(t) and t not in group.tables)
    surplus = sorted(t for t in group.tables if not group.is_wanted(t))
    if missing:
        return warning(f"not published, though capture.tables matches them: {some(missing)}", "cdc init")
    if surplus:
        return warning(
            f"published, though capture.tables does not match them: {some(surplus)}",
            "add them to capture.tables; or run cdc init, which takes them out: followers then lack what comes later",
        )
    if added := added_tables(facts.look):
        return warning(f"added without cdc init: {some(added)}", "cdc init, then bootstrap the followers anew")
    return ok(f"{len(group.tables)} tables")


@leader.check("log", "going on from another place would leave a gap in the log")
def log(facts: LeaderNode, group: Group) -> Verdict | None:
    """slot, WAL and log continue each other"""
    who, found, later = facts.identity, facts.look.slot, group.later
    if who is None or found is None or later is None:
        return None
    if isinstance(later, CdcError):
        return refused(later)
    end = later.tail.end_lsn if later.tail else "?"
    return raised(
        lambda: check_tail(later.tail, who, found, later.wal_lsn, group.names),
        f"epoch {who.epoch}, the log ends at {end}",
    )


@leader.check("promotion", "until it has ended nobody knows whether this node goes on leading")
def promotion(facts: LeaderNode, group: Group) -> Verdict:
    """no promotion is under way"""
    state = facts.node.leadership
    if state.promotion:
        return warning(
            f"has not ended: {state.promotion}", f"go on with it: cdc promote --follower {group.leader_name}"
        )
    if state.closed:
        return warning(
            "closed for writes by a promotion",
            "go on with it (cdc promote), or take it back (--abort)",
        )
    return ok("none")
