"""What only an operator decides: `cdc skip`."""

from __future__ import annotations

from pathlib import Path

import click

from cdc.cli.options import config_option, follower_option
from cdc.cli.wiring.skip import skip_transaction
from cdc.config import load
from cdc.events.position import TransactionName
from cdc.logging import configure_logging


def _transaction_name(_context: click.Context, _parameter: click.Parameter, value: str) -> TransactionName:
    """EPOCH/LSN, as the applier and `cdc status` write it."""
    try:
        return TransactionName.parse(value)
    except ValueError:
        raise click.BadParameter(f"{value} is not a position; the applier names one, such as 1/0/16E9038") from None


@click.command("skip")
@config_option
@follower_option
@click.option("--position", "name", callback=_transaction_name, required=True, metavar="EPOCH/LSN",
              help="Where the applier stops; no other transaction can be left out.")  # fmt: skip
@click.option("--reason", required=True, help="Why. Stored on the follower, together with who and when.")
@click.option("--file", type=click.Path(dir_okay=False, path_type=Path),
              help="Where its events are kept, one a line. [default: ./skipped-FOLLOWER-EPOCH-LSN.jsonl]")  # fmt: skip
def skip_command(config_path: str | None, follower: str, name: TransactionName, reason: str, file: Path | None) -> None:
    """Leave out one transaction that a follower cannot apply; the follower has diverged from then on.

    Its events are written to a file first, which holds the values of rows. Stop the applier before.

    Exit 3 when it is not the transaction that this follower would apply next, 4 while an applier runs.
    """
    settings = load(config_path)
    if not reason.strip():
        raise click.UsageError("--reason must say something")
    configure_logging("console", "error")
    chosen = file or Path(f"skipped-{follower}-{str(name).replace('/', '-')}.jsonl")
    done = skip_transaction(settings, follower, name, reason.strip(), chosen)
    decision = done.decision
    if done.already:
        click.echo(f"{name} was left out before, at {decision.at} by {decision.by}; its events are in {decision.file}")
        return
    click.echo(
        f"left out {name}: {decision.events} events of {', '.join(decision.tables) or 'no table'}, "
        f"kept in {decision.file}. {follower} has diverged until it is bootstrapped anew. "
        f"Next: cdc apply --follower {follower}"
    )
