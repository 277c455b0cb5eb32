"""`cdc bootstrap`: from settings to parts that run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager

from cdc.cli.wiring.group import actor, known_leader, log_reader
from cdc.config import Settings
from cdc.copy_ports import SchemaChoice
from cdc.errors import CheckError
from cdc.events.table import matches
from connectors.kafka.consumer import LogReader
from connectors.postgres.initial_copy import PostgresInitialCopy
from connectors.postgres.recopy import PostgresRecopy
from connectors.postgres.snapshot_source import Ends


@contextmanager
def initial_copy(
    settings: Settings, follower: str, dsn: str, choice: SchemaChoice
) -> Iterator[tuple[PostgresInitialCopy, LogReader]]:
    """Raises CheckError when that node leads."""
    copy = PostgresInitialCopy(_ends(settings, follower, dsn), choice)
    with closing(copy), log_reader(settings, f"bootstrap-{follower}") as reader:
        yield copy, reader


@contextmanager
def table_copy(
    settings: Settings, follower: str, dsn: str, patterns: Sequence[str]
) -> Iterator[tuple[PostgresRecopy, LogReader]]:
    """Raises CheckError when that node leads."""
    copy = PostgresRecopy(_ends(settings, follower, dsn), lambda table: matches(table, patterns), actor())
    with closing(copy), log_reader(settings, f"bootstrap-{follower}") as reader:
        yield copy, reader


def _ends(settings: Settings, follower: str, dsn: str) -> Ends:
    leader = known_leader(settings, "bootstrap")
    if follower == leader:
        raise CheckError(f"{follower} leads this group", "name another node", settings.topic)
    return Ends(settings.dsn_of(leader), leader, dsn, follower, settings.slot, settings.topic)
