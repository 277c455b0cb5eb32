"""The command `cdc`: one group, one table from error class to exit code."""

from __future__ import annotations

import sys
from importlib import import_module

import click
import psycopg

from cdc import __version__
from cdc.errors import CdcError, ConfigError

MODULES = {
    "demo": "demo",
    "check": "check",
    "init": "setup",
    "bootstrap": "bootstrap",
    "capture": "capture",
    "apply": "apply",
    "lag": "lag",
    "status": "observe",
    "skip": "decide",
    "tail": "observe",
    "token": "read_your_writes",
    "wait": "read_your_writes",
    "leader": "promote",
    "promote": "promote",
    "rejoin": "rejoin",
}
"""Of cdc.cli, by the name of the command. Only that of the command that runs is imported."""


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return _load(cmd_name) if cmd_name in MODULES else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in MODULES:
            self.commands.update(every_command())  # where it looks for what may have been meant
        return super().resolve_command(ctx, args)


def _load(name: str) -> click.Command:
    found = getattr(import_module(f"cdc.cli.{MODULES[name]}"), f"{name}_command")
    assert isinstance(found, click.Command)
    return found


def every_command() -> dict[str, click.Command]:
    """By name."""
    return {name: _load(name) for name in MODULES}


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__)
def cli() -> None:
    """Replicate PostgreSQL from a leader to followers through an ordered log in Kafka.

    Exit codes: 0 done, 1 a bug, 2 usage or configuration, 3 a check failed or a server cannot be
    reached, 4 replication must not go on until somebody acts.
    """


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
    except OSError as error:
        # The same. That whoever reads a pipe went away is no error: click ends quietly then.
        what = f"unexpected {type(error).__name__}: {error.strerror or 'it says no more'}"
        where = str(error.filename) if error.filename is not None else None
        click.echo(f"cdc: {CdcError(what, where=where)}", err=True)
        sys.exit(CdcError.exit_code)


def _usage(error: click.ClickException) -> ConfigError:
    context = error.ctx if isinstance(error, click.UsageError) else None
    command = context.command_path.split()[1:] if context else []
    return ConfigError(error.format_message(), " ".join(["see cdc", *command, "--help"]), " ".join(command) or None)
