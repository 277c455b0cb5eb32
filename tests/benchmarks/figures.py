"""What is worked out of figures: spreads of runs, percentiles, and when transactions of an open loop are due."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil
from statistics import median
from typing import NamedTuple, TypeVar

Run = TypeVar("Run")
PERCENTILES = (50.0, 95.0, 99.0, 99.9)


class Spread(NamedTuple):
    """Of several runs or turns."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> Spread:
        return cls(median(figures), min(figures), max(figures))

    @classmethod
    def of_middle_half(cls, figures: Sequence[float]) -> Spread:
        """From the first quartile to the third, where single figures lie far off."""
        ordered = sorted(figures)
        return cls(median(ordered), percentile(ordered, 25), percentile(ordered, 75))

    def told(self, form: str) -> str:
        """`5.1 (4.9-6.0)`; the median alone when there is nothing around it."""
        if self.least == self.most:
            return f"{self.median:{form}}"
        return f"{self.median:{form}} ({self.least:{form}}-{self.most:{form}})"


def counted(runs: Sequence[Run]) -> Sequence[Run]:
    """Without the first of several: caches fill in it, and the broker's JVM compiles what it runs."""
    return runs[1:] if len(runs) > 1 else runs


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The smallest of the figures, which are in order, that at least `percent` of them do not exceed."""
    return ordered[max(ceil(len(ordered) * percent / 100), 1) - 1]


def quantiles(ordered: Sequence[float], points: int = 500) -> list[float]:
    """As many figures as a curve of their distribution needs; the greatest is the last."""
    return [percentile(ordered, 100 * point / points) for point in range(1, points + 1)]


def schedule(rate: float, seconds: float) -> Iterator[float]:
    """Seconds after the start at which each transaction is due. Nothing that happens later moves them."""
    return (number / rate for number in range(round(rate * seconds)))
