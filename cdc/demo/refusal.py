"""Whether a node refuses what an ordinary role writes."""

from __future__ import annotations

import psycopg

from cdc.demo.errors import DemoError, asking
from cdc.demo.scene import Scene
from cdc.demo.screen import Mood
from cdc.demo.servers import Servers


def check_leader_takes(servers: Servers, leader: str) -> None:
    """Raises DemoError when it does not: then a follower that refuses proves nothing."""
    with asking(leader):
        if not _takes_write(servers.clerk_dsn(leader)):
            raise DemoError(
                "an ordinary role cannot write here, so a follower that refuses proves nothing", where=leader
            )


def refuses(scene: Scene, servers: Servers, follower: str) -> bool:
    """Tried, and told."""
    with asking(follower):
        taken = _takes_write(servers.clerk_dsn(follower))
    if taken:
        scene.say(f"{follower} TOOK A WRITE of an ordinary role", Mood.BAD)
    else:
        scene.say(f"{follower} refuses writes of an ordinary role: ok", Mood.GOOD)
    return not taken


def _takes_write(dsn: str) -> bool:
    """Whether an insert by this role is possible; it is taken back."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SET default_transaction_read_only = off")  # anybody may do that much
        try:
            with connection.transaction(force_rollback=True):
                connection.execute("INSERT INTO bank_branches VALUES (-1, 0)")
        except psycopg.errors.ReadOnlySqlTransaction:
            return False
    return True
