"""Who leads, and another one: `cdc leader`, `cdc promote`."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import click
import orjson
from rich.console import Console
from rich.table import Table

from cdc.cli.options import config_option, json_option
from cdc.cli.wiring import group
from cdc.cli.wiring.promote import promotion as promotion_of
from cdc.config import Settings, load
from cdc.errors import CheckError, RetryableError
from cdc.services.promote import Hooks
from cdc.services.promotion_report import PromotionReport, last_report
from cdc.services.promotion_survey import PromoteOptions, Situation, Survey

_HOOK_SECONDS = 120.0


@click.command("leader")
@config_option
@click.option("--dsn", "only_dsn", is_flag=True, help="Its dsn, without a password.")
@json_option
def leader_command(config_path: str | None, only_dsn: bool, as_json: bool) -> None:
    """Which node leads, as the log says: its name.

    Exit 3 when Kafka cannot be reached, 4 when the log does not say.
    """
    settings = load(config_path)
    leader = group.leader(settings)
    parts = group.address(settings, leader.name)
    if as_json:
        click.echo(orjson.dumps({"leader": leader.name, "epoch": leader.epoch, **parts}))
    elif only_dsn:
        click.echo(group.connection_string(parts))
    else:
        click.echo(leader.name)


@click.command("promote")
@config_option
@click.option("--follower", metavar="NAME", help="Which follower is to lead. Without it one is proposed, nothing done.")
@click.option("--dry-run", is_flag=True, help="Show what there is, what would be done, and what speaks against it.")
@click.option("--leader-is-dead", metavar="REASON",
              help="Go on without closing the leader for writes. Written into the log, with who said so.")  # fmt: skip
@click.option(
    "--force",
    is_flag=True,
    help="Also when another follower is ahead of this one, or a transaction was left out of it.",
)
@click.option("--grace", type=click.FloatRange(min=0), default=5.0, show_default=True, metavar="SECONDS",
              help="How long open transactions of the leader may go on before they are ended.")  # fmt: skip
@click.option("--abort", is_flag=True, help="Take back a promotion whose epoch has not begun.")
@click.option("--report", "report_path", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Write the final report there, as JSON.")  # fmt: skip
@json_option
def promote_command(
    config_path: str | None,
    follower: str | None,
    dry_run: bool,
    leader_is_dead: str | None,
    force: bool,
    grace: float,
    abort: bool,
    report_path: Path | None,
    as_json: bool,
) -> None:
    """Make a follower the leader.

    With a leader that can be reached: it is closed for writes first, nothing is lost, and it becomes a follower.
    Without one: say that it is dead. A run that was interrupted is continued by the same command, from anywhere.

    Exit 3 when something speaks against it, it did not end, or its report cannot be written: remove the cause and
    repeat. Exit 4 when another node was promoted meanwhile.
    """
    settings = load(config_path)
    if follower is not None:
        settings.dsn_of(follower)
    if report_path is not None:
        _check_writable(report_path)
    options = PromoteOptions(group.actor(), leader_is_dead, force, grace)
    with promotion_of(settings, options, hooks_of(settings), _tell) as (survey, promotion):
        if abort:
            click.echo(promotion.abort())
            return
        situation = survey.look(follower, lock=not (dry_run or follower is None))
        if survey.leads_already(situation):
            what = f"{situation.follower} leads already, since epoch {situation.tail.epoch}; nothing to do"
            click.echo(what, err=as_json)
            last = last_report(situation.states[situation.follower].promotion, situation.tail.epoch)
            if last is not None:
                _hand_over(last, report_path, as_json)
            return
        if dry_run or follower is None:
            _show_plan(survey, survey.let_pass(situation, _tell, lock=False), follower)
            return
        report = promotion.run(situation)
    _hand_over(report, report_path, as_json)


def _check_writable(report_path: Path) -> None:
    """Raises CheckError. A file that is there stays as it is, and none is made that stays."""
    try:
        report_path.open("xb").close()
        report_path.unlink()
    except OSError as error:
        if isinstance(error, FileExistsError) and os.access(report_path, os.W_OK):
            return
        reason = "it is there and may not be changed" if isinstance(error, FileExistsError) else error.strerror
        raise CheckError(
            f"the report cannot be written: {reason}", "name another file by --report", str(report_path)
        ) from error


def _hand_over(report: PromotionReport, report_path: Path | None, as_json: bool) -> None:
    """Raises RetryableError behind the report that was shown when the file cannot be written."""
    text = orjson.dumps(asdict(report), option=orjson.OPT_INDENT_2)
    unwritten = None
    if report_path is not None:
        try:
            report_path.write_bytes(text + b"\n")
        except OSError as error:
            unwritten = RetryableError(
                f"the promotion is complete; the report could not be written to {report_path}: {error.strerror}",
                "repeat the command with another file: it does nothing but show the report again",
            )
    if as_json:
        click.echo(text)
    else:
        _show_report(report)
    if unwritten is not None:
        raise unwritten


def _tell(line: str) -> None:
    """A line stays one, however long, and wherever it goes; what an operator wrote is no markup."""
    click.echo(line, err=True)


def _show_plan(survey: Survey, situation: Situation, asked: str | None) -> None:
    console = Console(highlight=False, markup=False)
    tail = situation.tail
    console.print(
        f"{tail.leader} leads, epoch {tail.epoch}; the log ends at {tail.commit_lsn}. "
        f"{situation.follower} would lead epoch {situation.epoch} ({situation.mode})."
    )
    nodes = Table("node", "epoch", "position", "applier")
    for name, state in situation.states.items():
        position = state.position
        place = (str(position.epoch), str(position.commit_lsn)) if position else ("", "")
        nodes.add_row(name, *place, "runs" if state.applier_runs else "")
    for name, why in situation.unreachable.items():
        nodes.add_row(name, "?", "?", why)
    console.print(nodes)
    console.print(f"Lost would be: {survey.at_risk(situation)}.")
    steps = Table("step", "where", "what", title="Plan", title_justify="left")
    for step in survey.plan(situation):
        steps.add_row(step.name, step.where, step.what)
    console.print(steps)
    if asked is None:
        console.print(f"Nothing was done. To do it: cdc promote --follower {situation.follower}")
    if situation.problems:
        raise CheckError(
            " / ".join(problem.text for problem in situation.problems), "remove the causes first", situation.follower
        )


def _show_report(report: PromotionReport) -> None:
    console = Console(highlight=False, markup=False)
    console.print(f"{report.new_leader} leads, epoch {report.epoch} ({report.mode}, promotion {report.promotion})")
    refused = report.writes_refused_seconds
    facts = [
        ("lost", report.loss),
        ("writes were refused for", f"{refused:.2f} s" if refused is not None else "unknown"),
        ("the old epoch ended at", f"{report.log_end}, offset {report.log_offset}"),
        ("by", report.by + (f": {report.reason}" if report.reason else "")),
    ]
    table = Table(show_header=False)
    for row in facts:
        table.add_row(*row)
    for step in report.steps:
        table.add_row(f"{step.name} ({step.seconds:.2f} s)", step.result)
    console.print(table)
    for todo in report.remaining:
        console.print(f"To do: {todo}")


def hooks_of(settings: Settings) -> Hooks:
    """What they say goes to stderr: stdout is the report's."""

    def run(command: str, name: str, epoch: int) -> None:
        parts = group.whole_address(settings, name)
        environment = {
            "CDC_GROUP": settings.group, "CDC_LEADER": name, "CDC_EPOCH": str(epoch),
            **{f"CDC_LEADER_{key.upper()}": value for key, value in parts.items()},
        }  # fmt: skip
        try:
            done = subprocess.run(
                shlex.split(command), env={**os.environ, **environment}, timeout=_HOOK_SECONDS, check=False,
                stdin=subprocess.DEVNULL, stdout=sys.stderr,
            )  # fmt: skip
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            raise CheckError(f"the hook {command!r} failed ({type(error).__name__})", "correct it", "hooks") from error
        if done.returncode:
            raise CheckError(f"the hook {command!r} ended with code {done.returncode}", "see what it says", "hooks")

    before, after = settings.hooks.before_open, settings.hooks.after_promote
    return Hooks(
        before_open=(lambda name, epoch: run(before, name, epoch)) if before else None,
        after_promote=(lambda name, epoch: run(after, name, epoch)) if after else None,
    )
