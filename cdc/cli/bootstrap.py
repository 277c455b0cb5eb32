"""`cdc bootstrap`: the first copy of a follower, or a new copy of some of its tables."""

from __future__ import annotations

import click

from cdc.cli.copy_progress import watcher
from cdc.cli.options import config_option, follower_option
from cdc.cli.wiring.bootstrap import initial_copy, table_copy
from cdc.config import Settings, load
from cdc.copy_ports import SchemaChoice
from cdc.logging import configure_logging
from cdc.services.bootstrap import bootstrap
from cdc.services.recopy import recopy


@click.command("bootstrap")
@config_option
@follower_option
@click.option(
    "--jobs", type=click.IntRange(1, 64), default=4, show_default=True,
    help="How many tables or parts of tables are copied at a time, and indexes built; each has a connection to both.",
)  # fmt: skip
@click.option(
    "--schema", "choice", type=click.Choice([choice.value for choice in SchemaChoice]), default="copy",
    show_default=True,
    help="Copy the leader's schema into an empty database; or verify that the one that is there is the leader's; or "
    "none of both, and see whether the rows fit.",
)  # fmt: skip
@click.option(
    "--tables", "patterns", multiple=True, metavar="SCHEMA.TABLE",
    help="Copy only these tables of a follower that was bootstrapped before, anew; its applier may run. * and ? match "
    "any characters; may be given several times.",
)  # fmt: skip
def bootstrap_command(
    config_path: str | None, follower: str, jobs: int, choice: str, patterns: tuple[str, ...]
) -> None:
    """Copy schema and all published rows into an empty database, and make it a read-only follower.

    Safe while the leader takes writes. Goes on after a worker's connection is lost, or the follower is restarted; a
    copy whose process ended starts anew.

    Exit 3 when a requirement is not met, a server cannot be reached, or one refuses a row or an index: it can be run
    again. Exit 4 while another bootstrap works on the same follower, or when the log is lost.
    """
    settings = load(config_path)
    dsn = settings.dsn_of(follower)
    configure_logging("console", "warning")
    if patterns:
        if choice != "copy":
            raise click.UsageError("--tables leaves the schema alone: --schema says nothing then")
        _copy_tables(settings, follower, dsn, patterns, jobs)
        return
    with initial_copy(settings, follower, dsn, SchemaChoice(choice)) as (copy, reader), watcher() as told:
        report = bootstrap(copy, reader, told, jobs)
    if report.already_done:
        click.echo(f"{follower} was bootstrapped before; nothing to do. Next: cdc apply --follower {follower}")
        return
    click.echo(
        f"{follower} holds {report.rows} rows of {report.tables} tables as of {report.position} "
        f"({report.seconds:.1f} s), and is read-only. Next: cdc apply --follower {follower}"
    )


def _copy_tables(settings: Settings, follower: str, dsn: str, patterns: tuple[str, ...], jobs: int) -> None:
    for pattern in patterns:
        if not all(pattern.partition(".")):
            raise click.UsageError(f"{pattern}: --tables takes schema.table")
    with table_copy(settings, follower, dsn, patterns) as (copy, reader), watcher() as told:
        report = recopy(copy, reader, told, jobs)
    what = f"{follower} holds {report.rows} rows of {report.tables} tables anew ({report.seconds:.1f} s)"
    if report.ahead is None:
        click.echo(f"{what}, as of {report.at}")
        return
    click.echo(
        f"{what}, as of {report.ahead}, and all others as of {report.at}: the applier leaves out the changes of these "
        f"until it is there. Next: cdc apply --follower {follower}"
    )
