"""`cdc capture`: a daemon that runs until SIGTERM or a terminal error."""

from __future__ import annotations

import click
import structlog

from cdc.cli.http_pages import served
from cdc.cli.options import config_option, http_options, log_options
from cdc.cli.systemd import told_to_systemd
from cdc.cli.wiring.capture import capture_service
from cdc.config import load
from cdc.errors import CdcError
from cdc.logging import configure_logging
from cdc.services.health import Health
from cdc.services.meters import CaptureMeter
from cdc.stop import stop_on_signals

log = structlog.get_logger(__name__)


@click.command("capture")
@config_option
@click.option("--node", metavar="NAME", help="Capture this node while it leads, and stand by while another one does.")
@http_options
@log_options
def capture_command(
    config_path: str | None, node: str | None, http: str | None, ready_within: float, log_format: str, log_level: str
) -> None:
    """Publish the leader's changes to the log, in commit order, until SIGTERM.

    Who leads is in the log: after a promotion it goes on with the new leader by itself. Lost connections are tried
    again for ever.

    Exit 0 after SIGTERM, 3 when a server refuses it at its start, 4 where going on would lose or double rows.
    """
    settings = load(config_path)
    if node is not None:
        settings.dsn_of(node)
    configure_logging(log_format, log_level)
    structlog.contextvars.bind_contextvars(group=settings.group)
    health, meter = Health(), CaptureMeter()
    with stop_on_signals() as stop, told_to_systemd(health), served(http, ready_within, settings, health, meter):
        try:
            capture_service(settings, node, health, meter).run(stop)
        except CdcError as error:
            log.error("capture stopped", error=str(error), exit_code=error.exit_code)
            raise
    log.info("capture ended")
