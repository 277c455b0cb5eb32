"""From our settings to librdkafka's: what correctness needs is fixed, the rest may be overridden."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from cdc.errors import ConfigError

Settings = dict[str, str | int | float | bool]

QUIET = logging.getLogger("librdkafka")
"""For the clients' `logger`: their own lines on stderr repeat what we report, in another form."""
QUIET.addHandler(logging.NullHandler())
QUIET.propagate = False

_PRODUCER_FIXED: Settings = {
    "acks": "all",
    "enable.idempotence": True,
    # A permanent failure of one record must not let later ones through: the chain would have a gap.
    "enable.gapless.guarantee": True,
    # Records never time out here: dropping one and sending the next would be a gap. Memory is bounded by
    # the caller, who stops reading from PostgreSQL.
    "message.timeout.ms": 0,
    # Never a full queue, which would refuse a record in the middle of a batch. The caller bounds bytes.
    "queue.buffering.max.messages": 0,
    "queue.buffering.max.kbytes": 2097151,
    "allow.auto.create.topics": False,
}
_PRODUCER_DEFAULTS: Settings = {
    "linger.ms": 5,
    "compression.type": "zstd",
    # As small as the default level (3) makes these records, for less than two thirds of its CPU.
    "compression.level": 1,
    "batch.num.messages": 10000,
    "batch.size": 1000000,
}
_CONSUMER_FIXED: Settings = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "error",
    "enable.partition.eof": False,
    "isolation.level": "read_committed",
    "allow.auto.create.topics": False,
    "check.crcs": True,
}
_CONSUMER_DEFAULTS: Settings = {
    # A broker answers as soon as there is a record; an answer without one costs it more than us.
    "fetch.wait.max.ms": 500,
    "fetch.min.bytes": 1,
    # Prefetch is memory: librdkafka's own default is 64 MiB a partition.
    "queued.max.messages.kbytes": 8192,
    "queued.min.messages": 20000,
    # librdkafka's own default is a second of standing still whenever the queue was full once.
    "fetch.queue.backoff.ms": 5,
    # One answer of the broker, still compressed, and unpacked whole: rows of a mass change come out twenty times as
    # large, and large values that are alike a thousand times. A batch that is larger comes all the same, alone.
    "fetch.message.max.bytes": 32768,
}
_COMMON_DEFAULTS: Settings = {
    "socket.keepalive.enable": True,
    "reconnect.backoff.ms": 100,
    "reconnect.backoff.max.ms": 2000,
    # Its own lines would come between ours, one a failed attempt; what matters reaches us as errors.
    "log_level": 2,
}


def common_settings(bootstrap_servers: str, client_id: str, extra: Mapping[str, str] | None = None) -> Settings:
    """What every client gets; `extra` is the operator's own (security and tuning), in librdkafka's words.

    Raises ConfigError for a setting that breaks the log, whichever client would use it.
    """
    for fixed in (_PRODUCER_FIXED, _CONSUMER_FIXED):
        _refuse_other_values(extra or {}, fixed)
    return {
        **_COMMON_DEFAULTS,
        **(extra or {}),
        "bootstrap.servers": bootstrap_servers,
        "client.id": client_id,
    }


def producer_settings(common: Mapping[str, str | int | float | bool], max_record_bytes: int) -> Settings:
    """`max_record_bytes` is the topic's max.message.bytes. Raises ConfigError for a setting that breaks the log."""
    settings = _merge(common, _PRODUCER_DEFAULTS, _PRODUCER_FIXED)
    settings["message.max.bytes"] = max_record_bytes
    settings["batch.size"] = min(int(settings["batch.size"]), max_record_bytes)
    return settings


def consumer_settings(common: Mapping[str, str | int | float | bool]) -> Settings:
    """For a reader with a manual assignment; the group id names nothing, but the client insists on one."""
    settings = _merge(common, _CONSUMER_DEFAULTS, _CONSUMER_FIXED)
    settings.setdefault("group.id", f"{settings['client.id']}-unused")
    return settings


def to_find_the_end(common: Mapping[str, str | int | float | bool]) -> Settings:
    """For a reader that only looks where the log ends: it asks for more than there is, and each look would have to wait
    until the broker answers what the one before still asked for. Other memory may be in use meanwhile."""
    return {"queued.max.messages.kbytes": 4096, "fetch.wait.max.ms": 10, **common}


_FOREIGN = {
    # What a common section may hold for one kind of client and the other one warns about.
    "producer": ("group.id", "fetch.", "queued."),
    "consumer": ("linger.ms", "compression.", "batch."),
}


def _refuse_other_values(given: Mapping[str, str | int | float | bool], fixed: Settings) -> None:
    wrong = [name for name, value in fixed.items() if name in given and str(given[name]).lower() != str(value).lower()]
    if wrong:
        raise ConfigError(
            f"kafka setting {wrong[0]} must be {str(fixed[wrong[0]]).lower()}: the log would lose or double records",
            f"remove {wrong[0]} from the kafka settings",
        )


def _merge(common: Mapping[str, str | int | float | bool], defaults: Settings, fixed: Settings) -> Settings:
    kind = "producer" if "acks" in fixed else "consumer"
    _refuse_other_values(common, fixed)
    given = {name: value for name, value in common.items() if not name.startswith(_FOREIGN[kind])}
    return {**defaults, **given, **fixed}
