"""Checks of a node that follows, or is to follow, by itself; what it must share with the leader is in between.py."""

from __future__ import annotations

from cdc.check_ports import FollowerNode, LeaderNode, NodeTable
from cdc.events.quoting import quoted
from cdc.ports import FOLLOWER_SESSION
from cdc.services.checks import node as any_node
from cdc.services.checks.check import Checks, Group, Verdict, failed, judged, ok, warning
from cdc.services.initialize import leader_problems, some

follower: Checks[FollowerNode] = Checks("follower")

_ORIGIN_FUNCTIONS = ", ".join(
    f"pg_replication_origin_{name}" for name in ("create", "oid", "session_setup", "xact_setup")
)
_TO_LEAD = ("wal_level", "role", "create", "slots", "wal_senders")


@follower.check("version", "an older server lacks what the applier uses")
def version(facts: FollowerNode, group: Group) -> Verdict:
    """PostgreSQL 14 to 18"""
    return any_node.version(facts.node, leader_problems(facts.node.server, None, facts.node.name).get("version"))


@follower.check("primary", "a standby takes no writes, and an applier writes")
def primary(facts: FollowerNode, group: Group) -> Verdict:
    """the server is no standby"""
    problem = leader_problems(facts.node.server, None, facts.node.name).get("primary")
    return judged(problem, "takes the applier's writes")


@follower.check("replica_role", "only in that role triggers and foreign keys do not act again on what the leader did")
def replica_role(facts: FollowerNode, group: Group) -> Verdict:
    """our role may set `session_replication_role`"""
    if facts.rights.replica_role:
        return ok(f"{facts.node.server.role} may set it")
    role = quoted(facts.node.server.role)
    if facts.node.server.version < 150000:
        return failed(
            "may not set session_replication_role", f"ALTER ROLE {role} SUPERUSER (PostgreSQL 14 knows no less)"
        )
    return failed(
        f"{facts.node.server.role} may not set session_replication_role",
        f"GRANT SET ON PARAMETER session_replication_role TO {role}",
    )


@follower.check("origin", "the applier marks what it writes, so that nobody takes it for writes of this node")
def origin(facts: FollowerNode, group: Group) -> Verdict:
    """our role may use replication origins, and one is free"""
    if not facts.rights.origin:
        return failed(
            f"{facts.node.server.role} may not set up a replication origin",
            f"GRANT EXECUTE ON FUNCTION {_ORIGIN_FUNCTIONS} TO {quoted(facts.node.server.role)}",
        )
    if facts.rights.free_origins > 0:
        return ok(f"{facts.rights.free_origins} free")
    setting = "max_active_replication_origins" if facts.node.server.version >= 180000 else "max_replication_slots"
    return failed(
        "no replication origin is free",
        f"ALTER SYSTEM SET {setting} = ..., and restart the server; or SELECT pg_replication_origin_drop(...) of "
        "databases that are gone (pg_replication_origin_status)",
    )


@follower.check(
    "grants", "the applier writes rows and its position, and takes sets of changes through temporary tables"
)
def grants(facts: FollowerNode, group: Group) -> Verdict:
    """our role may write the published tables, the schema cdc and temporary tables"""
    role = quoted(facts.node.server.role)
    needed = []
    if not facts.rights.temporary:
        needed.append(f"GRANT TEMPORARY ON DATABASE {quoted(facts.node.server.database)} TO {role}")
    if not facts.rights.bookkeeping:
        needed.append(f"GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA cdc TO {role}")
    closed = [table for table in group.tables if table in facts.node.tables and not facts.node.tables[table].writable]
    if closed and facts.copied:
        needed.append(
            f"GRANT USAGE ON SCHEMA {quoted(closed[0].schema)}, and GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE, "
            f"TRIGGER ON {', '.join(quoted(*table) for table in closed[:5])}, TO {role}"
        )
    if not needed:
        return ok("all that the applier needs")
    what = some(closed) if closed and facts.copied else "what the applier needs"
    return failed(
        f"{facts.node.server.role} may not write {what}",
        f"{'; '.join(needed)} (ops/roles/follower.sql does all of it)",
    )


@follower.check("state", "only a follower that holds the leader's rows as of a known position can go on from the log")
def state(facts: FollowerNode, group: Group) -> Verdict | None:
    """it is bootstrapped, and neither blocked nor diverged"""
    if isinstance(group.leader, LeaderNode) and group.leader.node.database_id == facts.node.database_id:
        return None  # it is the leader, as between.database says
    if facts.facts is None:
        return _before_its_copy(facts, group)
    if facts.facts.leadership.epoch is not None:
        return failed(
            f"led epoch {facts.facts.leadership.epoch}, and does not follow yet", f"cdc rejoin --node {facts.node.name}"
        )
    if facts.facts.blocked_since:
        return failed(
            f"blocked since {facts.facts.blocked_since}: {facts.facts.blocked}",
            "run what it says; the applier then goes on by itself",
        )
    if facts.facts.diverged_since:
        return warning(
            f"diverged since {facts.facts.diverged_since}: a transaction was left out",
            f"drop and create its database (ops/runbooks/new-group.md, step 4), then cdc bootstrap "
            f"--follower {facts.node.name}",
        )
    return ok(f"at {facts.facts.position}, applier: {facts.facts.applier or 'none now'}")


def _before_its_copy(facts: FollowerNode, group: Group) -> Verdict:
    name = facts.node.name
    if facts.copy == "unfinished":
        return warning("a bootstrap began and has not ended", f"cdc bootstrap --follower {name}, which starts anew")
    if facts.foreign_objects and group.tables and group.tables.keys() <= facts.node.tables.keys():
        return warning(
            f"not bootstrapped, and not empty: {facts.foreign_objects} tables and views, the published ones among them",
            f"cdc bootstrap --follower {name} --schema verify, which takes the schema that is there if no row is in it",
        )
    if facts.foreign_objects:
        return failed(
            f"not bootstrapped, and not empty: {facts.foreign_objects} tables and views",
            f"name an empty database in the dsn of {name}: a bootstrap overwrites nothing",
        )
    return ok(f"empty; cdc bootstrap --follower {name} fills it")


@follower.check("owner", "a first copy makes schemas and triggers, and sets the database read-only")
def owner(facts: FollowerNode, group: Group) -> Verdict:
    """our role owns the database, or is a superuser; not needed once it is bootstrapped"""
    if facts.copied:
        return ok("it is bootstrapped")
    if facts.rights.owner:
        return ok(f"{facts.node.server.role} does")
    role, database = quoted(facts.node.server.role), quoted(facts.node.server.database)
    return failed(
        f"{facts.node.server.role} does not own {facts.node.server.database}",
        f"ALTER DATABASE {database} OWNER TO {role}, or name a role that may in the dsn of the configuration that cdc "
        "bootstrap gets",
    )


@follower.check("read_only", "a row that somebody else writes here stops the applier, or stays different unseen")
def read_only(facts: FollowerNode, group: Group) -> Verdict:
    """published tables refuse writes of everybody but the applier"""
    if not facts.copied:
        return ok("not bootstrapped yet")
    takes_writes = sorted(facts.open_tables & group.tables.keys())
    if not takes_writes:
        return ok("all published tables")
    return warning(
        f"take writes: {some(takes_writes)}",
        f"{FOLLOWER_SESSION}; CREATE OR REPLACE TRIGGER cdc_read_only BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON "
        f"{quoted(*takes_writes[0])} FOR EACH STATEMENT EXECUTE FUNCTION cdc.refuse_write()",
    )


@follower.check("triggers", "what the leader's triggers wrote is in the log: one that acts again here writes it twice")
def triggers(facts: FollowerNode, group: Group) -> Verdict:
    """no trigger or rule of a published table fires for the applier"""
    found = {t.table: t.firing for t in _published_here(facts, group) if t.firing}
    if not found:
        return ok("none fires")
    table, names = next(iter(found.items()))
    return warning(
        f"fire for the applier: {some(f'{name} on {t}' for t, list_ in found.items() for name in list_)}",
        f"if that is not meant: {FOLLOWER_SESSION}; ALTER TABLE {quoted(*table)} ENABLE TRIGGER {quoted(names[0])} (a "
        "rule: ENABLE RULE)",
    )


@follower.check(
    "unlogged", "the server empties an unlogged table after a crash, and the log does not send its rows again"
)
def unlogged(facts: FollowerNode, group: Group) -> Verdict:
    """no published table is unlogged here"""
    found = [t.table for t in _published_here(facts, group) if t.unlogged]
    if not found or not facts.copied:
        return ok("none")
    return failed(f"unlogged: {some(found)}", f"{FOLLOWER_SESSION}; ALTER TABLE {quoted(*found[0])} SET LOGGED")


@follower.check("collation", any_node.COLLATION_WHY)
def collation(facts: FollowerNode, group: Group) -> Verdict:
    """collations are those with which the indexes were built"""
    return any_node.collation(facts.node)


@follower.check("can_lead", "cdc promote refuses a node that cannot be captured from")
def can_lead(facts: FollowerNode, group: Group) -> Verdict:
    """server and role could lead after a promotion"""
    problems = leader_problems(facts.node.server, None, facts.node.name)
    found = [problems[requirement] for requirement in _TO_LEAD if requirement in problems]
    if not found:
        return ok("could lead")
    return warning(
        "could not lead: " + "; ".join(problem.what for problem in found),
        "; ".join(problem.remedy or "" for problem in found),
    )


def _published_here(facts: FollowerNode, group: Group) -> list[NodeTable]:
    return [facts.node.tables[table] for table in group.tables if table in facts.node.tables]
