"""`cdc capture`: from settings to parts that run."""

from __future__ import annotations

from cdc.cli.wiring.group import client_settings, topic_of
from cdc.config import Settings
from cdc.services.capture import CaptureService, CaptureSettings
from cdc.services.health import Health
from cdc.services.meters import CaptureMeter
from connectors.kafka.consumer import LogReader
from connectors.kafka.producer import LogProducer
from connectors.kafka.settings import to_find_the_end
from connectors.postgres.connection import ANSWER_SECONDS
from connectors.postgres.leader import Leader
from connectors.postgres.replication import ReplicationStream


def capture_service(settings: Settings, node: str | None, health: Health, meter: CaptureMeter) -> CaptureService:
    """What `cdc capture` runs; with a `node`, for that one only."""
    client = client_settings(settings, "capture")
    return CaptureService(
        CaptureSettings(
            settings.group,
            settings.leader,
            settings.topic,
            settings.slot,
            node,
            settings.capture.heartbeat_seconds,
            settings.capture.max_in_flight_bytes,
        ),
        lambda name: Leader(settings.dsn_of(name), "cdc capture", name, ANSWER_SECONDS),
        lambda name: ReplicationStream(settings.dsn_of(name), "cdc capture", name),
        topic_of(settings, client),
        lambda: LogReader(to_find_the_end(client), settings.topic),
        lambda max_message_bytes, next_offset: LogProducer(client, settings.topic, max_message_bytes, next_offset),
        health,
        meter,
    )
