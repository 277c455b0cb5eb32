"""`cdc rejoin`: from settings to parts that run."""

from __future__ import annotations

from collections.abc import Callable

from cdc.cli.wiring.group import depth
from cdc.config import Settings
from cdc.promotion_ports import PromotionNode
from cdc.services.rejoin import Rejoin, RejoinSettings
from connectors.kafka.consumer import LogReader
from connectors.postgres.leader import Leader
from connectors.postgres.promotion_node import PostgresNode
from connectors.postgres.replication import ReplicationStream
from connectors.postgres.takeover import PostgresTakeover


def rejoin(
    settings: Settings, node: str, grace_seconds: float, tell: Callable[[str], None], reader: LogReader
) -> Rejoin:
    """What `cdc rejoin` runs."""
    dsn = settings.dsn_of(node)

    def takeover(leader: str, joining: PromotionNode) -> PostgresTakeover:
        assert isinstance(joining, PostgresNode)
        return PostgresTakeover(settings.dsn_of(leader), leader, joining, settings.slot)

    return Rejoin(
        RejoinSettings(settings.group, settings.topic, settings.slot, node, depth(settings), grace_seconds),
        lambda: PostgresNode(dsn, node, settings.group, settings.topic, settings.slot),
        lambda: Leader(dsn, "cdc rejoin", node),
        lambda: ReplicationStream(dsn, "cdc rejoin", node),
        reader,
        takeover,
        tell,
    )
