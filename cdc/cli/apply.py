"""`cdc apply`: a daemon that runs until SIGTERM or a terminal error."""

from __future__ import annotations

import time

import click
import structlog

from cdc.cli.http_pages import served
from cdc.cli.options import config_option, follower_option, http_options, log_options
from cdc.cli.systemd import told_to_systemd
from cdc.cli.wiring.apply import apply_service
from cdc.config import load
from cdc.errors import CdcError, DivergenceError
from cdc.logging import configure_logging
from cdc.services.health import Health
from cdc.services.meters import ApplyMeter
from cdc.stop import stop_on_signals

log = structlog.get_logger(__name__)


@click.command("apply")
@config_option
@follower_option
@click.option("--show-keys", is_flag=True, help="When a row stops it, show the values of its key in the last line.")
@http_options
@log_options
def apply_command(
    config_path: str | None,
    follower: str,
    show_keys: bool,
    http: str | None,
    ready_within: float,
    log_format: str,
    log_level: str,
) -> None:
    """Apply the log to one follower until SIGTERM.

    Run one for each node, the leader's too: it waits while its node leads. Lost connections are tried again for ever;
    where the follower has no place for a row it says what to do, waits, and goes on by itself.

    Exit 0 after SIGTERM, 3 when a server refuses it at its start, 4 where going on would lose or double rows: at a
    transaction that cannot be applied, a gap in the log, another applier.
    """
    settings = load(config_path)
    dsn = settings.dsn_of(follower)
    configure_logging(log_format, log_level)
    structlog.contextvars.bind_contextvars(group=settings.group, node=follower)
    health, meter = Health(), ApplyMeter(now_us=lambda: time.time_ns() // 1000)
    with (
        stop_on_signals() as stop,
        told_to_systemd(health),
        served(http, ready_within, settings, health, meter, follower),
    ):
        try:
            apply_service(settings, follower, dsn, stop, health, meter).run(stop)
        except CdcError as error:
            log.error("apply stopped", error=str(error), exit_code=error.exit_code)
            if show_keys and isinstance(error, DivergenceError):
                raise error.showing_key() from error
            raise
    log.info("apply ended")
