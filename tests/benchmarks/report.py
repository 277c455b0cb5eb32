"""What a measurement hands out: tables for people, and all figures with the circumstances as JSON."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import orjson
import psutil
from rich.console import Console
from rich.table import Table

PROGRESS = Console(stderr=True)
_QUIET_LOAD = 0.3


class NoResult(click.ClickException):
    """An engine has none in this run; the others go on."""


@dataclass
class Sheet:
    """A table: the first column is named, the others hold figures."""

    title: str
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)

    def rich(self) -> Table:
        table = Table(title=self.title)
        for number, column in enumerate(self.columns):
            table.add_column(column, justify="right" if number else "left")
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        rule = ["---", *["---:"] * (len(self.columns) - 1)]
        lines = (f"| {' | '.join(row)} |" for row in (self.columns, rule, *self.rows))
        return "\n".join([f"### {self.title}", "", *lines, ""])


@dataclass
class Report:
    """`results` are all figures of all runs, as they go to JSON."""

    name: str
    sheets: list[Sheet]
    results: dict[str, Any]
    facts: dict[str, Any]
    failures: list[str] = field(default_factory=list)

    def print(self) -> None:
        console = Console()
        for sheet in self.sheets:
            console.print(sheet.rich())
        for failure in self.failures:
            console.print(f"no result: {failure}", markup=False)

    def save(self, file: Path) -> None:
        told = {**self.facts, "failures": self.failures, "results": self.results}
        file.write_bytes(orjson.dumps(told, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS) + b"\n")

    def markdown(self) -> str:
        failed = [f"- no result: {failure}\n" for failure in self.failures]
        return "\n".join([*(sheet.markdown() for sheet in self.sheets), *failed])


def page(reports: Sequence[Report]) -> str:
    """All tables of reports that were made one after the other, in Markdown."""
    facts = reports[0].facts
    machine, servers = facts["machine"], ", ".join(facts["servers"])
    about = (
        f"Commit `{facts['commit']}`; {machine['processor']}, {machine['cpus']} CPUs, {machine['memory_gb']} GB, "
        f"congestion control {machine['congestion_control']}; "
        f"{servers}, Python {machine['python']}; {_runs(facts['runs'])}."
    )
    loads = ", ".join(
        f"{report.name} {report.facts['load_before']} and {report.facts['stolen_percent']} %" for report in reports
    )
    noise = f"Load average before, and CPU time that the host took: {loads}."
    return "\n\n".join(["# Results", about, noise, *(report.markdown() for report in reports)])


def _runs(runs: int) -> str:
    return f"{runs} runs, of which the first does not count" if runs > 1 else "one run"


class Circumstances:
    """What every figure was measured with; made before the measurement, asked after it."""

    def __init__(self) -> None:
        self._load = os.getloadavg()[0]
        self._stolen = StolenTime()
        if self._load > _QUIET_LOAD:
            PROGRESS.print(f"the load average is {self._load:.2f}: what else runs here takes part in every figure")

    def facts(self, **more: Any) -> dict[str, Any]:
        return {"commit": _commit(), "machine": _machine(), "load_before": round(self._load, 2),
                "stolen_percent": self._stolen.percent(), **more}  # fmt: skip


class StolenTime:
    """Of the machine's CPU, by its host, since this was made."""

    def __init__(self) -> None:
        self._times = psutil.cpu_times()

    def percent(self) -> float:
        now = psutil.cpu_times()
        passed = sum(now) - sum(self._times)
        stolen = getattr(now, "steal", 0.0) - getattr(self._times, "steal", 0.0)
        return round(100 * stolen / passed, 2) if passed else 0.0


def _machine() -> dict[str, object]:
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.machine(),
        "cpus": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30),
        "python": platform.python_version(),
        "congestion_control": _congestion_control(),
    }


def _congestion_control() -> str:
    """Of TCP within the machine; it decides when a walsender's messages leave (ops/decisions/0016)."""
    if not hasattr(socket, "TCP_CONGESTION"):
        return "unknown"
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as link:
        return link.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).split(b"\0")[0].decode()


def _commit() -> str:
    asked = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)  # noqa: S607
    return asked.stdout.strip() or "unknown"
