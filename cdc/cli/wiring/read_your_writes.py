"""`cdc token` and `cdc wait`: who is asked, and for how long."""

from __future__ import annotations

from cdc.cli.wiring.group import leader_of, tail_of
from cdc.config import Settings
from cdc.errors import CheckError, LogError, RetryableError
from cdc.events.position import Token
from connectors.postgres.connection import ANSWER_SECONDS, connect
from connectors.postgres.waiting import current_token as postgres_token
from connectors.postgres.waiting import wait_for as postgres_wait

_LEADER_SECONDS = 3.5
"""Without an answer, before the leader is given up."""


def current_token(settings: Settings) -> tuple[Token, CheckError | None]:
    """What the leader has committed by now; and what to know when the log could not say who leads, so that it is of the
    node that the configuration names. Raises CheckError when it cannot be told."""
    tail = unknown = None
    try:
        tail = tail_of(settings, "token")
    except (LogError, RetryableError) as error:
        why = f"who leads cannot be asked, {settings.leader} does by the configuration: {error.what}"
        unknown = CheckError(why, error.remedy, error.where)
    node = leader_of(settings, tail)
    with connect(settings.dsn_of(node), "cdc token", node, answer_seconds=_LEADER_SECONDS) as connection:
        return postgres_token(connection, settings.group, node), unknown


def wait_for(settings: Settings, follower: str, wanted: str, seconds: float) -> bool:
    """Whether the follower shows `wanted`, a token or an LSN of the present leader, within `seconds`."""
    patience = seconds + ANSWER_SECONDS
    with connect(settings.dsn_of(follower), "cdc wait", follower, answer_seconds=patience) as connection:
        return postgres_wait(connection, wanted, seconds, follower)
