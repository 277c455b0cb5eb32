"""`cdc init`: from settings to parts that run."""

from __future__ import annotations

from cdc.cli.wiring.group import client_settings, known_leader, topic_of
from cdc.config import Settings
from cdc.services.initialize import Initializer, InitializeSettings
from connectors.kafka.consumer import LogReader
from connectors.kafka.producer import LogProducer
from connectors.kafka.settings import to_find_the_end
from connectors.postgres.leader import Leader


def initializer(settings: Settings) -> Initializer:
    """What `cdc init` runs."""
    client = client_settings(settings, "init")
    node = known_leader(settings, "init")
    dsn = settings.dsn_of(node)
    return Initializer(
        InitializeSettings(settings.group, node, settings.topic, settings.slot, settings.capture.tables),
        lambda: Leader(dsn, "cdc init", node),
        topic_of(settings, client),
        lambda: LogReader(to_find_the_end(client), settings.topic),
        lambda max_message_bytes: LogProducer(client, settings.topic, max_message_bytes),
    )
