"""`cdc rejoin`: a node that led comes back as a follower."""

from __future__ import annotations

import os
import time
from dataclasses import asdict
from pathlib import Path

import click
import orjson

from cdc.cli.options import config_option, json_option
from cdc.cli.wiring.group import actor, log_reader
from cdc.cli.wiring.rejoin import rejoin
from cdc.config import load
from cdc.logging import configure_logging


@click.command("rejoin")
@config_option
@click.option("--node", required=True, metavar="NAME", help="The node that led before.")
@click.option("--dry-run", is_flag=True, help="Count what only this node has. Changes nothing.")
@click.option("--discard-tail", is_flag=True,
              help="Go on when it has something: it is exported, and then replaced by the leader's rows.")  # fmt: skip
@click.option("--file", "path", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Where the export goes. [default: GROUP-NODE-tail-TIME.jsonl]")  # fmt: skip
@click.option("--grace", type=click.FloatRange(min=0), default=5.0, show_default=True, metavar="SECONDS",
              help="How long open transactions of the node may go on before they are ended.")  # fmt: skip
@json_option
def rejoin_command(
    config_path: str | None,
    node: str,
    dry_run: bool,
    discard_tail: bool,
    path: Path | None,
    grace: float,
    as_json: bool,
) -> None:
    """Make a node that led before a follower of the group, without copying it anew.

    What it committed and no other node has is written to a file, each change beside the leader's row. Unless there is
    nothing of the kind it stops there; with --discard-tail those rows are taken over from the leader.

    Exit 3 when it stops there, or something speaks against it; 4 when its slot no longer has what only this node has.
    """
    settings = load(config_path)
    settings.dsn_of(node)
    configure_logging("console", "warning")
    file = path or Path(f"{settings.group}-{node}-tail-{time.strftime('%Y%m%dT%H%M%S')}.jsonl")
    if os.path.lexists(file):  # where nobody can look, it is found out when it is to be written
        raise click.BadParameter(f"{file} is there already", param_hint="--file")
    with log_reader(settings, "rejoin") as reader:
        joining = rejoin(settings, node, grace, lambda line: click.echo(line, err=True), reader)
        report = joining.run(actor(), file, dry_run=dry_run, discard_tail=discard_tail)
    if as_json:
        click.echo(orjson.dumps(asdict(report)))
        return
    if report.already:
        click.echo(f"{node} follows already, at {report.position}; nothing to do")
        return
    if report.tail_transactions:
        where = f", exported to {report.file}" if report.file else ""
        click.echo(f"only {node} had {report.tail_transactions} transactions ({report.tail_changes} changes){where}")
    else:
        click.echo(f"{node} has nothing that the log lacks")
    if report.position:
        click.echo(
            f"{node} follows {report.leader} from {report.position}, read-only; {report.rows_taken_over} rows were "
            f"taken over. Next: cdc apply --follower {node}"
        )
