"""`cdc skip`: from settings to parts that run."""

from __future__ import annotations

from pathlib import Path

from cdc.cli.wiring.group import actor, log_reader
from cdc.config import Settings
from cdc.events.position import TransactionName
from cdc.services.skip import Skipped, skip
from cdc.stop import StopToken
from connectors.postgres.target import PostgresTarget


def skip_transaction(settings: Settings, follower: str, name: TransactionName, reason: str, file: Path) -> Skipped:
    """What `cdc skip` runs."""
    target = PostgresTarget(settings.dsn_of(follower), follower, settings.topic, StopToken().wait)
    try:
        with log_reader(settings, f"skip-{follower}") as reader:
            return skip(reader, target, follower, name, reason, actor(), file)
    finally:
        target.close()
