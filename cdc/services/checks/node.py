"""What is judged alike of the leader and of followers."""

from __future__ import annotations

from cdc.check_ports import DATABASE, NodeFacts
from cdc.errors import CdcError
from cdc.events.quoting import quoted
from cdc.services.checks.check import Verdict, ok, refused, warning
from cdc.services.initialize import some

NEWEST_MAJOR = 18
GOOD_MINORS = {14: 18, 15: 13, 16: 9, 17: 5}
"""From here on DDL that takes no strong lock (ALTER PUBLICATION, ALTER TYPE) no longer makes decoding lose changes
(release notes of 17.5, 16.9, 15.13 and 14.18)."""
COLLATION_WHY = "an index on text that was sorted by other rules misses rows, and takes a key twice"


def version(facts: NodeFacts, too_old: CdcError | None) -> Verdict:
    if too_old is not None:
        return refused(too_old)
    major, minor = facts.server.version // 10000, facts.server.version % 10000
    if major > NEWEST_MAJOR:
        return warning(f"PostgreSQL {major}, newer than what this version is tested with", "install a newer cdc")
    good = GOOD_MINORS.get(major, 0)
    if minor < good:
        return warning(
            f"{major}.{minor} loses changes of tables whose publication or types are changed under load",
            f"update the server to {major}.{good} or newer",
        )
    return ok(facts.minor_version)


def collation(facts: NodeFacts) -> Verdict:
    stale = facts.collation.stale
    if not stale:
        return ok(facts.collation.name)
    database = quoted(facts.server.database)
    refresh = (
        f"ALTER DATABASE {database} REFRESH COLLATION VERSION"
        if stale[0] == DATABASE
        else f"ALTER COLLATION {stale[0]} REFRESH VERSION"
    )
    return warning(f"made with another version: {some(stale)}", f"REINDEX DATABASE {database}; then {refresh}")
