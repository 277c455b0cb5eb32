"""Pictures of reports, as PNG."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl

from tests.benchmarks.figures import counted

mpl.use("Agg")
from matplotlib import pyplot as plt

_SIZE = (9.0, 4.5)


def lag(results: dict[str, Any], file: Path) -> None:
    """How a backlog becomes less, by workload that tells it; each engine's last run."""
    workloads = [name for name in next(iter(results.values())) if _has_lag(results, name)]
    if not workloads:
        return
    figure, panels = plt.subplots(1, len(workloads), figsize=_SIZE, squeeze=False)
    for panel, workload in zip(panels[0], workloads, strict=True):
        for engine, by_workload in results.items():
            if runs := by_workload[workload]:
                panel.plot(*zip(*runs[-1]["lag"], strict=True), label=engine)
        panel.set(title=workload, xlabel="seconds", ylabel="rows that the follower lacks")
        panel.set(xlim=(0, None), ylim=(0, None))
        panel.legend()
    _save(figure, file)


def _has_lag(results: dict[str, Any], workload: str) -> bool:
    return any(run["lag"] for by_workload in results.values() for run in by_workload[workload])


def latency(results: dict[str, Any], file: Path) -> None:
    """The share of transactions that a reader has seen by then, of counted runs."""
    figure, panels = plt.subplots(1, len(results), figsize=_SIZE, squeeze=False)
    for panel, (load, by_engine) in zip(panels[0], results.items(), strict=True):
        for engine, runs in by_engine.items():
            if curves := [run["curve"] for run in counted(runs)]:
                curve = [max(median(at), 0.1) for at in zip(*curves, strict=True)]
                panel.plot(curve, [100 * (point + 1) / len(curve) for point in range(len(curve))], label=engine)
        panel.set(title=load, xlabel="milliseconds", ylabel="% of transactions seen", xscale="log", ylim=(0, 100))
        panel.grid(visible=True, which="both", alpha=0.3)
        panel.legend()
    _save(figure, file)


def _save(figure: Any, file: Path) -> None:
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    plt.close(figure)
