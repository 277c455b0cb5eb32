"""The commands of `ops/bench`. A first word that is no command names a workload of `drain`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from tests.benchmarks import bootstrap, drain
from tests.benchmarks.engines import PEERS, engines_for
from tests.benchmarks.report import Report
from tests.benchmarks.workloads import WORKLOADS

Command = Callable[..., Any]


def _peers(command: Command) -> Command:
    return click.option(
        "--peer", "peers", multiple=True, default=("native",), show_default=True, type=click.Choice(PEERS),
        help="What is measured beside this project; may be given several times.",
    )(command)  # fmt: skip


def _runs(command: Command) -> Command:
    return click.option(
        "--runs", default=3, show_default=True, type=click.IntRange(min=1), help="The first of several is not counted."
    )(command)


def _json(command: Command) -> Command:
    return click.option(
        "--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write all figures here."
    )(command)


def _hand_out(report: Report, json_file: Path | None) -> None:
    report.print()
    if json_file:
        report.save(json_file)
    if report.failures:
        sys.exit(1)


@click.group()
def main() -> None:
    """Measure this project beside others, on servers that are started for it."""


@main.command("drain")
@click.argument("workloads", nargs=-1, type=click.Choice(list(WORKLOADS)))
@_peers
@_runs
@click.option("--scale", default=1.0, show_default=True, help="Multiplies the number of rows.")
@_json
def drain_command(
    workloads: tuple[str, ...], peers: tuple[str, ...], runs: int, scale: float, json_file: Path | None
) -> None:
    """How fast a backlog drains: all workloads, or those that are named."""
    _hand_out(drain.measure(workloads or tuple(WORKLOADS), engines_for(peers), runs, scale), json_file)


main.add_command(bootstrap.main, "bootstrap")


def _with_command(arguments: list[str]) -> list[str]:
    named = bool(arguments) and (arguments[0] in main.commands or arguments[0] == "--help")
    return arguments if named else ["drain", *arguments]


if __name__ == "__main__":
    main(_with_command(sys.argv[1:]), prog_name="ops/bench")
