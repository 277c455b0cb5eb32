"""Making a group: `cdc init`. It can be repeated."""

from __future__ import annotations

import click

from cdc.cli.options import config_option
from cdc.cli.wiring.setup import initializer
from cdc.config import load


@click.command("init")
@config_option
def init_command(config_path: str | None) -> None:
    """Make publication, topic, slot and bookkeeping on the leader; what is there already is left alone.

    Safe to repeat, and to be repeated when tables shall join: it publishes what capture.tables matches by now.

    Exit 3 when a requirement is not met, with nothing made, or a server cannot be reached; 4 when slot or log are
    there and cannot go on.
    """
    for step in initializer(load(config_path)).run():
        click.echo(f"{'made' if step.made else 'there already':<14} {step.name}: {step.detail}")
