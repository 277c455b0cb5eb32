"""The commands of `ops/bench`. A first word that is no command names a workload of `drain`."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from tests.benchmarks import bootstrap, drain, growth, idle, join, latency, leader, plots, recovery
from tests.benchmarks.engines import PEERS, engines_for
from tests.benchmarks.open_loop import LOADS
from tests.benchmarks.report import Report, page
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


def _plot(command: Command) -> Command:
    return click.option(
        "--plot", "plot_file", type=click.Path(dir_okay=False, path_type=Path), help="Draw it into this PNG."
    )(command)


def _scale(command: Command) -> Command:
    return click.option("--scale", default=1.0, show_default=True, help="Multiplies the number of rows.")(command)


def _seconds(default: int, what: str) -> Callable[[Command], Command]:
    return click.option("--seconds", default=default, show_default=True, type=click.IntRange(min=1), help=what)


def _hand_out(report: Report, json_file: Path | None) -> None:
    """What failed is told last."""
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
@_scale
@_json
@_plot
def drain_command(
    workloads: tuple[str, ...], peers: tuple[str, ...], runs: int, scale: float, json_file: Path | None,
    plot_file: Path | None,
) -> None:  # fmt: skip
    """How fast a backlog drains: all workloads, or those that are named."""
    report = drain.measure(workloads or tuple(WORKLOADS), engines_for(peers), runs, scale)
    if plot_file:
        plots.lag(report.results, plot_file)
    _hand_out(report, json_file)


@main.command("latency")
@click.argument("loads", nargs=-1, type=click.Choice(list(LOADS)))
@_peers
@_runs
@_seconds(60, "Of load in each run.")
@_scale
@_json
@_plot
def latency_command(
    loads: tuple[str, ...], peers: tuple[str, ...], runs: int, seconds: int, scale: float, json_file: Path | None,
    plot_file: Path | None,
) -> None:  # fmt: skip
    """From a commit on the leader until a reader sees it on the follower, under a load that waits for nobody."""
    report = latency.measure(loads or tuple(LOADS), engines_for(peers), runs, seconds, scale)
    if plot_file:
        plots.latency(report.results, plot_file)
    _hand_out(report, json_file)


@main.command("growth")
@_runs
@_scale
@_json
def growth_command(runs: int, scale: float, json_file: Path | None) -> None:
    """Whether a row costs the same among few and many rows, tables and followers."""
    _hand_out(growth.measure(runs, scale), json_file)


@main.command("idle")
@_peers
@_runs
@_seconds(60, "Without a write, in each run.")
@_json
def idle_command(peers: tuple[str, ...], runs: int, seconds: int, json_file: Path | None) -> None:
    """CPU of each process while nobody writes."""
    _hand_out(idle.measure(engines_for(peers), runs, seconds), json_file)


@main.command("recovery")
@_runs
@_json
def recovery_command(runs: int, json_file: Path | None) -> None:
    """How long a follower shows nothing new after kill -9 of capture, and of its applier."""
    _hand_out(recovery.measure(runs), json_file)


@main.command("leader")
@_peers
@_runs
@_seconds(60, "Of load in each run, and as long alone.")
@_json
def leader_command(peers: tuple[str, ...], runs: int, seconds: int, json_file: Path | None) -> None:
    """How many transactions of TPC-B the leader does alone, and with each engine beside it."""
    _hand_out(leader.measure(engines_for(peers), runs, seconds), json_file)


@main.command("join")
@_runs
@_seconds(40, "Of load in each run; the copy must be done by then.")
@_scale
@_json
def join_command(runs: int, seconds: int, scale: float, json_file: Path | None) -> None:
    """What a follower that is being copied costs the leader and another follower."""
    _hand_out(join.measure(runs, seconds, scale), json_file)


main.add_command(bootstrap.main, "bootstrap")


@main.command("all")
@_peers
@_runs
@_scale
@click.option("--seconds", default=60, show_default=True, type=click.IntRange(min=1), help="Where time is given.")
@click.option(
    "--into", "folder", default="ops/benchmarks", show_default=True, help="Where JSON, tables and plots go.",
    type=click.Path(file_okay=False, path_type=Path),
)  # fmt: skip
def all_command(peers: tuple[str, ...], runs: int, scale: float, seconds: int, folder: Path) -> None:
    """Everything but the speed of the first copy, one after the other; each is written when it is done."""
    engines = engines_for(peers)
    measurements: list[Callable[[], Report]] = [
        lambda: drain.measure(tuple(WORKLOADS), engines, runs, scale),
        lambda: latency.measure(tuple(LOADS), engines, runs, seconds, scale),
        lambda: leader.measure(engines, runs, seconds),
        lambda: idle.measure(engines, runs, seconds),
        lambda: recovery.measure(runs),
        lambda: join.measure(runs, seconds, scale),
        lambda: growth.measure(runs, scale),
    ]
    folder.mkdir(parents=True, exist_ok=True)
    reports = []
    for measure in measurements:
        report = measure()
        report.print()
        report.save(folder / f"{report.name}.json")
        if draw := _PLOTS.get(report.name):
            draw(report.results, folder / f"{report.name}.png")
        reports.append(report)
        (folder / "results.md").write_text(page(reports))
    sys.exit(1 if any(report.failures for report in reports) else 0)


_PLOTS = {"drain": plots.lag, "latency": plots.latency}


def _with_command(arguments: list[str]) -> list[str]:
    named = bool(arguments) and (arguments[0] in main.commands or arguments[0] == "--help")
    return arguments if named else ["drain", *arguments]


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started for it ends with it
    main(_with_command(sys.argv[1:]), prog_name="ops/bench")
