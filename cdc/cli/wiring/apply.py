"""`cdc apply`: from settings to parts that run."""

from __future__ import annotations

from cdc.cli.wiring.group import actor, client_settings, depth, log_reader
from cdc.config import Settings
from cdc.events.table import matches
from cdc.retry import at_most_every
from cdc.services.apply import ApplyService
from cdc.services.health import Health
from cdc.services.log_end import LogEnd
from cdc.services.meters import ApplyMeter
from cdc.services.stale_leader import close_stale_leader
from cdc.stop import StopToken
from connectors.kafka.consumer import LogReader
from connectors.postgres.promotion_node import PostgresNode
from connectors.postgres.target import PostgresTarget


def apply_service(
    settings: Settings, follower: str, dsn: str, stop: StopToken, health: Health, meter: ApplyMeter
) -> ApplyService:
    """What `cdc apply` runs."""
    patterns = settings.apply.overwrite
    target = PostgresTarget(
        dsn, follower, settings.topic, stop.wait,
        lambda table: matches(table, patterns), actor(), health.alive,
    )  # fmt: skip
    client = client_settings(settings, f"apply-{follower}")

    log_end = LogEnd(depth(settings))

    def while_leading() -> None:
        with log_reader(settings, "fence") as reader:
            close_stale_leader(
                lambda: PostgresNode(dsn, follower, settings.group, settings.topic, settings.slot),
                lambda: log_end.read(reader),
                settings.slot,
            )

    return ApplyService(
        lambda: LogReader(client, settings.topic), target, follower, while_leading=at_most_every(10.0, while_leading),
        health=health, meter=meter,
    )  # fmt: skip
