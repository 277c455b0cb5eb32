"""The command `cdc`: one group, one table from error class to exit code."""

from __future__ import annotations

import sys

import click
import psycopg

from cdc import __version__
from cdc.cli.bootstrap import bootstrap_command
from cdc.cli.check import check_command
from cdc.cli.daemons import apply_command, capture_command
from cdc.cli.decide import skip_command
from cdc.cli.demo import demo_command
from cdc.cli.lag import lag_command
from cdc.cli.observe import status_command, tail_command
from cdc.cli.promote import leader_command, promote_command
from cdc.cli.read_your_writes import token_command, wait_command
from cdc.cli.rejoin import rejoin_command
from cdc.cli.setup import init_command
from cdc.errors import CdcError, ConfigError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__)
def cli() -> None:
    """Replicate PostgreSQL from a leader to followers through an ordered log in Kafka.

    Exit codes: 0 done, 1 a bug, 2 usage or configuration, 3 a check failed or a server cannot be
    reached, 4 replication must not go on until somebody acts.
    """


for command in (
    demo_command,
    check_command,
    init_command,
    bootstrap_command,
    capture_command,
    apply_command,
    lag_command,
    status_command,
    skip_command,
    tail_command,
    token_command,
    wait_command,
    leader_command,
    promote_command,
    rejoin_command,
):
    cli.add_command(command)


def main() -> None:
    """Entry point: every expected error becomes one line on stderr and its exit code."""
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(ConfigError.exit_code)
    except click.ClickException as error:
        click.echo(f"cdc: {_usage(error)}", err=True)
        sys.exit(ConfigError.exit_code)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("cdc: interrupted", err=True)
        sys.exit(130)
    except CdcError as error:
        click.echo(f"cdc: {error}", err=True)
        sys.exit(error.exit_code)
    except psycopg.Error as error:
        # Not translated where it happened, which is a bug; its text may hold values of rows.
        click.echo(f"cdc: unexpected database error {type(error).__name__} ({error.sqlstate})", err=True)
        sys.exit(CdcError.exit_code)


def _usage(error: click.ClickException) -> ConfigError:
    context = error.ctx if isinstance(error, click.UsageError) else None
    command = context.command_path.split()[1:] if context else []
    return ConfigError(error.format_message(), " ".join(["see cdc", *command, "--help"]), " ".join(command) or None)
