"""A group whose daemons reach every server through a proxy of their own; all others reach the servers directly."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from cdc.local import KafkaServer
from cdc.local.apache_kafka import ApacheKafka
from tests.support.pipeline import FOLLOWER, LEADER, Pipeline
from tests.support.proxy import Proxy, before_kafka

CAPTURE, APPLY = "capture", f"apply {FOLLOWER}"
LINKS = ("leader-capture", "capture-kafka", "kafka-apply", "apply-follower")


@dataclass(frozen=True)
class ProxiedKafka:
    """Runs; the daemons of one side each have a way of their own to it."""

    server: KafkaServer
    by_capture: Proxy
    by_apply: Proxy


@contextmanager
def proxied(kafka: ApacheKafka) -> Iterator[ProxiedKafka]:
    """`kafka` is not started yet."""
    with before_kafka(kafka) as by_capture, before_kafka(kafka) as by_apply, kafka:
        yield ProxiedKafka(kafka, by_capture, by_apply)


class Links:
    """The four proxies of one pipeline, by name in `LINKS`."""

    def __init__(self, stack: ExitStack, pipeline: Pipeline, kafka: ProxiedKafka) -> None:
        """From here on the daemons of `pipeline` that start go through them. `stack` closes them."""
        self.kafka_servers = kafka.server.bootstrap_servers
        """The way of all others to it."""
        leader = stack.enter_context(Proxy(_place(pipeline.leader)))
        follower = stack.enter_context(Proxy(_place(pipeline.followers[FOLLOWER])))
        self._proxies = dict(zip(LINKS, (leader, kafka.by_capture, kafka.by_apply, follower), strict=True))
        nodes = {
            LEADER: {"dsn": _through(pipeline.leader, leader)},
            FOLLOWER: {"dsn": _through(pipeline.followers[FOLLOWER], follower)},
        }
        for daemon, proxy in ((CAPTURE, kafka.by_capture), (APPLY, kafka.by_apply)):
            pipeline.group.environment[daemon] = {
                "CDC_NODES": json.dumps(nodes),
                "CDC_KAFKA__BOOTSTRAP_SERVERS": proxy.address,
            }

    def __getitem__(self, name: str) -> Proxy:
        return self._proxies[name]

    @staticmethod
    def daemon(name: str) -> str:
        """Whose link it is."""
        return CAPTURE if CAPTURE in name else APPLY


def _place(dsn: str) -> str:
    parts = urlsplit(dsn)
    return f"{parts.hostname}:{parts.port}"


def _through(dsn: str, proxy: Proxy) -> str:
    parts = urlsplit(dsn)
    user = parts.netloc.rpartition("@")[0]
    return urlunsplit(parts._replace(netloc=f"{user}@{proxy.address}"))
