"""`ops/soak`: the random nemesis, for as long as wanted."""

from __future__ import annotations

import random
import shutil
import signal
import sys
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

import click
from rich.console import Console
from rich.status import Status

from cdc.local import LocalServerError
from tests.soak import report, schedule
from tests.soak.disks import own_mounts
from tests.soak.findings import Findings
from tests.soak.log_watch import LogWatch
from tests.soak.nemesis import Nemesis
from tests.soak.resources import ResourceWatch
from tests.soak.rest import rest
from tests.soak.schedule import FOLLOWERS, Schedule
from tests.soak.stage import Stage
from tests.soak.watch import FollowerWatch
from tests.soak.workloads import Workers
from tests.support.pipeline import LEADER

_LOOK_SECONDS = 0.5
INTERRUPTED = 130


class Soak:
    """One run. `stop` ends it early, with everything undone."""

    def __init__(self, plan: Schedule, folder: Path, console: Console, stop: threading.Event) -> None:
        self._plan = plan
        self._folder = folder
        self._console = console
        self._stop = stop
        self._end = threading.Event()
        """Set by `stop`, or by a violation: no wait goes on after it."""
        self._rounds = 0
        self._workers: Workers | None = None
        self._status: Status | None = None
        self.findings = Findings()

    def say(self, text: str) -> None:
        self._console.print(f"{self.findings.seconds:7.1f} s  {text}", highlight=False, markup=False, soft_wrap=True)

    def run(self, *, disks: bool) -> report.Report:
        with ExitStack() as stack:
            self.say("starting three PostgreSQL servers, Kafka and the daemons")
            self._stage = stack.enter_context(Stage(self._folder, disks=disks, seed=self._plan.seed))
            self.findings.begin()
            self._watch_all(stack)
            if self._console.is_terminal:
                self._status = stack.enter_context(self._console.status("starting"))
            guard = threading.Thread(target=self._guard, name="guard", daemon=True)
            guard.start()
            stack.callback(guard.join, 30)
            stack.callback(self._end.set)
            self._rest()
            for number, one in enumerate(self._plan.rounds, 1):
                if self._end.is_set() or self.findings.seconds > self._plan.minutes * 60:
                    break
                self._round(number, one)
            finished = not self._stop.is_set()
            if self.findings.violations:
                self._keep_logs()
        return self._report(finished)

    def _watch_all(self, stack: ExitStack) -> None:
        stage, findings = self._stage, self.findings
        self._watches = {name: FollowerWatch(name, stage.dsn(name), findings) for name in FOLLOWERS}
        self._resources = ResourceWatch(stage, findings)
        group = stage.groups["capture"]
        self._log = LogWatch(
            stage.dsn(LEADER), group.slot, stage.kafka.bootstrap_servers, group.topic, self._watches.values(), findings
        )
        self._nemesis = Nemesis(stage, self._watches, findings, self._end, self.say)
        for watch in self._watches.values():
            watch.start()
            stack.callback(watch.stop)
        # A bootstrap ends at a position of its own, where the log need not be yet.
        self._nemesis.recover()
        self._log.start()
        stack.callback(self._log.stop)
        self._resources.start()
        stack.callback(self._resources.stop)

    def _guard(self) -> None:
        """Sees daemons that end, and the end of the run."""
        told: set[str] = set()
        while not self._end.wait(_LOOK_SECONDS):
            for name, code in self._stage.ended().items():
                if name not in told:
                    told.add(name)
                    self.findings.violation(f"{name} ended by itself with code {code}")
            if self._stop.is_set() or self.findings.wrong.is_set():
                self._end.set()
            if self._status:
                self._status.update(self._now())

    def _now(self) -> str:
        done = self.findings.transactions + (self._workers.transactions if self._workers else 0)
        snapshots = sum(watch.snapshots for watch in self._watches.values())
        active = ", ".join(sorted(self._nemesis.active)) or "nothing is broken"
        minutes = f"{self.findings.seconds / 60:.1f} of {self._plan.minutes:g} min"
        return f"{minutes}, {done} transactions, {snapshots} snapshots, {self._log.checks} checks; {active}"

    def _round(self, number: int, one: schedule.Round) -> None:
        self._workers = workers = Workers(self._stage.dsn(LEADER), f"{self._plan.seed} {number}")
        workers.start()
        try:
            self._nemesis.round(one, str(number))
        finally:
            self.findings.transactions += workers.stop()
            self._workers = None
        self._rounds = number
        self._rest()

    def _rest(self) -> None:
        if not self._end.is_set():
            rest(self._stage, self._nemesis, self._resources, self.findings, self._end, self.say)

    def _keep_logs(self) -> None:
        for name, log in self._stage.logs().items():
            if log.exists():
                shutil.copy(log, self._folder / f"{name.replace(' ', '-')}.log")

    def _report(self, finished: bool) -> report.Report:
        by_fault, every = report.recovery_of(self.findings)
        return report.Report(
            seed=self._plan.seed,
            minutes=self._plan.minutes,
            seconds=round(self.findings.seconds, 1),
            rounds=self._rounds,
            finished=finished,
            faults=dict(sorted(self.findings.faults.items())),
            skipped=dict(self.findings.skipped),
            violations=self.findings.violations,
            notes=self.findings.notes,
            recovery=by_fault,
            recovery_all=every,
            daemons=report.daemons_of(self._resources.memory),
            transactions=self.findings.transactions,
            transactions_in_log=self._log.reader.count,
            snapshots={name: watch.snapshots for name, watch in self._watches.items()},
            slot_checks=self._log.checks,
            rests=self.findings.rests,
            rows_compared=self.findings.rows_compared,
            retained_wal_max_mb=round(self.findings.most_retained_bytes / 2**20, 1),
            folder=str(self._folder),
        )


@click.command()
@click.option("--minutes", default=10.0, show_default=True, type=click.FloatRange(min=0.5), help="How long, about.")
@click.option(
    "--seed", type=click.IntRange(min=0), help="The same seed and minutes: the same faults. [default: a new one]"
)
@click.option("--schedule", "schedule_file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Replay this schedule, instead of --minutes and --seed.")  # fmt: skip
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write the report here.")
def main(minutes: float, seed: int | None, schedule_file: Path | None, json_file: Path | None) -> None:
    """Break everything, again and again, and look whether a follower ever shows what the leader did not have.

    Exit code 0: no violation. 1: at least one; logs are kept. 2: usage. 130: interrupted.
    """
    plan = _plan(minutes, seed, schedule_file)
    disks = own_mounts()
    console = Console()
    stop = _stopped_by_signals()
    folder = Path(tempfile.mkdtemp(prefix=f"cdc-soak-{plan.seed}-"))
    plan.write(folder / "schedule.json")
    print(*plan.lines(), sep="\n")
    console.print(
        f"seed {plan.seed}, {plan.minutes:g} minutes; the schedule is in {folder}/schedule.json", soft_wrap=True
    )
    soak = Soak(plan, folder, console, stop)
    try:
        told = soak.run(disks=disks)
    except LocalServerError as error:
        click.echo(f"ops/soak: {error}", err=True)
        shutil.rmtree(folder)
        sys.exit(1)
    print(*told.lines(), sep="\n")
    if json_file:
        told.write(json_file)
    if not told.violations:
        shutil.rmtree(folder)
    sys.exit(0 if told.passed else 1 if told.violations else INTERRUPTED)


def _plan(minutes: float, seed: int | None, file: Path | None) -> Schedule:
    if file is None:
        return schedule.make(random.randrange(10**6) if seed is None else seed, minutes)
    try:
        return Schedule.read(file)
    except (ValueError, KeyError, TypeError) as error:
        raise click.UsageError(f"{file} is not a schedule of ops/soak") from error


def _stopped_by_signals() -> threading.Event:
    """SIGINT and SIGTERM set it; a second one ends the process as usual."""
    stop = threading.Event()

    def handle(number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handle)
    return stop


if __name__ == "__main__":
    main()
