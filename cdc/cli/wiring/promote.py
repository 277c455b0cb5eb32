"""`cdc promote`: from settings to parts that run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import cache

from cdc.capture_ports import SystemFacts
from cdc.cli.wiring.group import client_settings, depth, log_reader, topic_of
from cdc.config import Settings
from cdc.services.promote import Hooks, Promotion
from cdc.services.promotion_survey import PromoteOptions, PromoteSettings, Survey, World
from connectors.kafka.producer import LogProducer
from connectors.postgres.promotion_node import PostgresNode
from connectors.postgres.replication import ReplicationStream


@contextmanager
def promotion(
    settings: Settings, options: PromoteOptions, hooks: Hooks, tell: Callable[[str], None]
) -> Iterator[tuple[Survey, Promotion]]:
    """What `cdc promote` looks with, and what it runs."""
    client = client_settings(settings, "promote")
    with log_reader(settings, "promote") as reader:
        world = World(
            node=lambda name: PostgresNode(settings.dsn_of(name), name, settings.group, settings.topic, settings.slot),
            system=cache(lambda name: _system(settings, name)),
            log=reader,
            topic=topic_of(settings, client),
            writer=lambda max_message_bytes: LogProducer(client, settings.topic, max_message_bytes),
        )
        nodes = PromoteSettings(
            settings.group, settings.topic, settings.slot, settings.capture.tables, list(settings.nodes),
            depth(settings),
        )  # fmt: skip
        with closing(Survey(nodes, options, world)) as survey:
            yield survey, Promotion(survey, hooks, tell)


def _system(settings: Settings, name: str) -> SystemFacts:
    with ReplicationStream(settings.dsn_of(name), "cdc promote", name) as stream:
        return stream.identify()
