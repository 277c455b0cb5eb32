"""The group, its log and who leads it, as everything else that is wired starts from."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import Conninfo

from cdc.config import Settings
from cdc.errors import LogError, RetryableError
from cdc.log.tail import LogTail
from connectors.kafka.admin import LogAdmin, TopicSettings
from connectors.kafka.consumer import REQUEST_SECONDS, LogReader
from connectors.kafka.settings import Settings as ClientSettings
from connectors.kafka.settings import common_settings, to_find_the_end

THE_LOG = "the log in Kafka"
"""What is asked, as a line calls it that says it did not answer; no name of a node."""


def client_settings(settings: Settings, role: str) -> ClientSettings:
    """Of librdkafka; `role` is what the brokers see."""
    kafka = settings.kafka
    return common_settings(kafka.bootstrap_servers, f"cdc-{settings.group}-{role}", kafka.client)


@contextmanager
def log_reader(settings: Settings, role: str, answer_seconds: float = REQUEST_SECONDS) -> Iterator[LogReader]:
    """A reader of the group's log, for a command: most of what they want to know is at its end."""
    client = to_find_the_end(client_settings(settings, role))
    with LogReader(client, settings.topic, answer_seconds) as reader:
        yield reader


def topic_of(settings: Settings, client: ClientSettings) -> LogAdmin:
    """The log as a topic, and how `cdc init` makes it."""
    kafka = settings.kafka
    made = TopicSettings(
        kafka.replication_factor, kafka.min_insync_replicas, kafka.retention_hours * 3_600_000, kafka.max_record_bytes
    )
    return LogAdmin(client, settings.topic, made)


def depth(settings: Settings) -> int:
    """How far back an `epoch` record may be hidden behind records of a leader that did not know of it yet."""
    return settings.capture.max_in_flight_bytes + 2 * 2**20


def tail_of(settings: Settings, role: str) -> LogTail | None:
    """Where the log ends, looked for deep; None when nothing was ever published."""
    with log_reader(settings, role) as reader:
        return reader.read_tail(depth_bytes=depth(settings))


def log_end(settings: Settings, role: str) -> LogTail:
    """Raises LogError when there is none."""
    tail = tail_of(settings, role)
    if tail is None:
        raise LogError("the log is empty", "run: cdc init", settings.topic)
    return tail


def leader_of(settings: Settings, tail: LogTail | None) -> str:
    """The node that the log names; at its beginning the one of the configuration. Raises ConfigError for an unknown."""
    node = tail.leader if tail is not None and tail.leader else settings.leader
    settings.dsn_of(node)
    return node


def known_leader(settings: Settings, role: str) -> str:
    """Who leads, as far as it can be known. What is wrong with the log is for the caller to find out."""
    try:
        tail = tail_of(settings, role)
    except (LogError, RetryableError):
        tail = None
    return leader_of(settings, tail)


@dataclass(frozen=True)
class KnownLeader:
    """Who leads, and since which epoch."""

    name: str
    epoch: int


def leader(settings: Settings) -> KnownLeader:
    """What the log says. Raises LogError when it does not say."""
    tail = log_end(settings, "leader")
    return KnownLeader(leader_of(settings, tail), tail.epoch)


def address(settings: Settings, node: str) -> dict[str, str]:
    """Where clients find it: host, port, dbname and user of its dsn, never a password."""
    known = conninfo_to_dict(settings.dsn_of(node))
    return {name: str(known[name]) for name in ("host", "port", "dbname", "user") if known.get(name)}


def whole_address(settings: Settings, node: str) -> dict[str, str]:
    """`address` with what the dsn leaves out as libpq fills it in, from PGPORT and the like or its defaults. Of a dsn
    that names a service only what it names itself, rather than something else than that service does."""
    known = conninfo_to_dict(settings.dsn_of(node))
    if known.get("service"):
        return address(settings, node)
    filled = {o.keyword.decode(): o.val.decode() for o in Conninfo.get_defaults() if o.val}
    host = known.get("hostaddr") or filled.get("host") or filled.get("hostaddr") or "localhost"
    parts = {"port": filled["port"], "user": filled.get("user", ""), "host": str(host), **address(settings, node)}
    return {"dbname": filled.get("dbname") or parts["user"], **parts}


def connection_string(parts: dict[str, str]) -> str:
    """For libpq."""
    return make_conninfo("", **parts)


def actor() -> str:
    """user@host: who runs this command, for the record."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
