"""The two daemons: `cdc capture` and `cdc apply`. They run until SIGTERM or a terminal error."""

from __future__ import annotations

import click
import structlog

from cdc.cli import wiring
from cdc.cli.options import config_option, follower_option, log_options
from cdc.config import load
from cdc.errors import CdcError, DivergenceError
from cdc.logging import configure_logging
from cdc.stop import stop_on_signals

log = structlog.get_logger(__name__)


@click.command("capture")
@config_option
@click.option("--node", metavar="NAME", help="Capture this node while it leads, and stand by while another one does.")
@log_options
def capture_command(config_path: str | None, node: str | None, log_format: str, log_level: str) -> None:
    """Publish the leader's changes to the log, in commit order, until SIGTERM.

    Who leads is in the log: after a promotion it goes on with the new leader by itself.
    """
    settings = load(config_path)
    if node is not None:
        settings.dsn_of(node)
    configure_logging(log_format, log_level)
    structlog.contextvars.bind_contextvars(group=settings.group)
    with stop_on_signals() as stop:
        try:
            wiring.capture_service(settings, node).run(stop)
        except CdcError as error:
            log.error("capture stopped", error=str(error), exit_code=error.exit_code)
            raise
    log.info("capture ended")


@click.command("apply")
@config_option
@follower_option
@click.option("--show-keys", is_flag=True, help="When a row stops it, show the values of its key in the last line.")
@log_options
def apply_command(config_path: str | None, follower: str, show_keys: bool, log_format: str, log_level: str) -> None:
    """Apply the log to one follower until SIGTERM."""
    settings = load(config_path)
    dsn = settings.dsn_of(follower)
    configure_logging(log_format, log_level)
    structlog.contextvars.bind_contextvars(group=settings.group, node=follower)
    with stop_on_signals() as stop:
        try:
            wiring.apply_service(settings, follower, dsn, stop).run(stop)
        except CdcError as error:
            log.error("apply stopped", error=str(error), exit_code=error.exit_code)
            if show_keys and isinstance(error, DivergenceError):
                raise error.showing_key() from error
            raise
    log.info("apply ended")
