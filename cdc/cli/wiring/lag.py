"""`cdc lag`: who is asked, and for how long."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from cdc.cli.wiring.group import THE_LOG, client_settings, log_reader, topic_of
from cdc.config import Settings
from cdc.errors import CdcError, LogError
from cdc.ports import NodeProgress
from cdc.services.ask import Answer, ask_all
from cdc.services.guardian import topic_warnings
from cdc.services.lag import GroupLook, LagReport, LogLook
from cdc.services.lag import lag_report as lag_of
from connectors.postgres.connection import open_connection, translated
from connectors.postgres.node_status import node_progress

_SECOND_LOOK_SECONDS = 1.0
_LAG_SECONDS = 3.5
"""Whoever asks for lag waits for no server longer than this, twice at most."""


def lag_report(settings: Settings) -> LagReport:
    """A second look tells rates, where they tell anything. Nothing takes longer than ten seconds.

    Raises LogError when the log is not what it must be.
    """
    report, before = lag_watch(settings)
    if report.worth_a_second_look():
        time.sleep(_SECOND_LOOK_SECONDS)
        report, _ = lag_watch(settings, before)
    return report


def lag_watch(settings: Settings, before: GroupLook | None = None) -> tuple[LagReport, GroupLook]:
    """One look at everybody at once, and what it comes to; rates are those since `before`. Raises LogError."""
    questions: dict[str, Callable[[], LogLook | NodeProgress]] = {THE_LOG: partial(_log_look, settings)}
    questions.update({name: partial(_node_progress, settings, name) for name in settings.nodes})
    answers = ask_all(questions, _LAG_SECONDS)
    told = answers.pop(THE_LOG)
    if isinstance(told, LogError):
        raise told
    assert not isinstance(told, NodeProgress)
    nodes = {name: _told(answer) for name, answer in answers.items() if not isinstance(answer, LogLook)}
    look = GroupLook(time.monotonic(), time.time_ns() // 1000, _told(told), nodes)
    return lag_of(settings.group, settings.leader, list(settings.nodes), look, before), look


def _told(answer: Answer | CdcError) -> Answer | str:
    return str(answer) if isinstance(answer, CdcError) else answer


def _log_look(settings: Settings) -> LogLook:
    # Brokers that do not let us in are silent first: who gives up before the asker does can say why.
    with log_reader(settings, "lag", _LAG_SECONDS / 2) as reader:
        tail = reader.read_tail()
    topic = topic_of(settings, client_settings(settings, "lag")).find()
    if tail is None or topic is None:
        raise LogError("the log is empty, or gone", "run: cdc init", f"topic {settings.topic}")
    return LogLook(tail, topic.retention_ms, tuple(topic_warnings(topic).values()))


def _node_progress(settings: Settings, name: str) -> NodeProgress:
    timeout = str(int(_LAG_SECONDS))
    with (
        translated(name),
        open_connection(settings.dsn_of(name), "cdc lag", _LAG_SECONDS, connect_timeout=timeout) as connection,
    ):
        return node_progress(connection, settings.slot, settings.topic, name)
