"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from cdc.logging import LOG_FORMATS

Command = TypeVar("Command", bound=Callable[..., Any])

config_option = click.option(
    "--config", "config_path", metavar="FILE", help="Configuration file. [default: $CDC_CONFIG or ./cdc.toml]"
)
follower_option = click.option("--follower", required=True, metavar="NAME", help="Which follower, as in [nodes.NAME].")
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, for machines.")


def log_options(command: Command) -> Command:
    """How daemons log."""
    command = click.option(
        "--log-format", type=click.Choice(LOG_FORMATS), default="console", show_default=True, help="Form of the logs."
    )(command)
    return click.option(
        "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True,
        help="The least important lines that are logged.",
    )(command)  # fmt: skip


def http_options(command: Command) -> Command:
    """Where a daemon tells how it is."""
    command = click.option(
        "--ready-within", type=click.FloatRange(min=0), default=60.0, show_default=True, metavar="SECONDS",
        help="/readyz answers 503 when it is further behind than this.",
    )(command)  # fmt: skip
    return click.option(
        "--http", metavar="HOST:PORT", help="Serve /metrics, /healthz, /readyz and a page for people there."
    )(command)
