"""`cdc token` and `cdc wait`: who wrote on the leader reads on a follower what was written."""

from __future__ import annotations

import click
import orjson

from cdc.cli.options import config_option, follower_option, json_option
from cdc.cli.wiring.read_your_writes import current_token, wait_for
from cdc.config import load
from cdc.errors import CheckError, ConfigError
from cdc.events.position import Token
from cdc.protocol.lsn import Lsn


@click.command("token")
@config_option
@json_option
def token_command(config_path: str | None, as_json: bool) -> None:
    """What the leader has committed by now, as EPOCH/LSN, for `cdc wait` or cdc.wait_for on a follower.

    Exit 3 when the leader cannot be reached, or leads no log; also when the log cannot be asked who leads: then it is
    of the node that the configuration names.
    """
    token, unknown = current_token(load(config_path))
    told = {"token": str(token), "epoch": token.epoch, "lsn": str(token.lsn)}
    click.echo(orjson.dumps(told) if as_json else str(token))
    if unknown:
        raise unknown


@click.command("wait")
@config_option
@follower_option
@click.option("--token", metavar="EPOCH/LSN", help="What `cdc token` printed; it holds across promotions.")
@click.option("--lsn", metavar="LSN", help="Of the node that leads now (pg_current_wal_insert_lsn()).")
@click.option("--timeout", type=click.FloatRange(min=0), default=30.0, show_default=True, metavar="SECONDS",
              help="How long to wait at most.")  # fmt: skip
def wait_command(config_path: str | None, follower: str, token: str | None, lsn: str | None, timeout: float) -> None:
    """Wait until a follower shows what the leader had committed: give either --token or --lsn.

    The same in SQL, on the follower: SELECT cdc.wait_for('EPOCH/LSN', interval '5 s').

    Exit 3 when it does not show it in time, when the token's write is not known to have been carried over by a
    promotion, or when the follower cannot be reached.
    """
    settings = load(config_path)
    settings.dsn_of(follower)
    wanted = _wanted(token, lsn)
    if not wait_for(settings, follower, wanted, timeout):
        raise CheckError(f"does not show {wanted} after {timeout:g} s", "see cdc lag", follower)
    click.echo(f"{follower} shows {wanted}")


def _wanted(token: str | None, lsn: str | None) -> str:
    """Raises ConfigError unless there is exactly one of the two, in its form."""
    try:
        if token and not lsn:
            return str(Token.parse(token))
        if lsn and not token:
            return str(Lsn.parse(lsn))
    except ValueError:
        raise ConfigError(
            f"{token or lsn} is not of the form {'EPOCH/LSN' if token else 'LSN'}", "see cdc token"
        ) from None
    raise ConfigError("what to wait for is not named", "give either --token or --lsn", "wait")
