"""`cdc check` of a group, and what it says anew once something is broken."""

from __future__ import annotations

from cdc.cli.wiring.check import checked
from cdc.config import load
from cdc.services.checks.check import Status
from cdc.services.checks.report import CheckReport, Line
from tests.support.pipeline import Pipeline


def check(pipeline: Pipeline) -> CheckReport:
    return checked(load(str(pipeline.group.config)))


def problems(pipeline: Pipeline) -> dict[tuple[str, str], Line]:
    """Lines that are not ok, by check and place."""
    return {(line.id, line.place): line for line in check(pipeline).lines if line.status is not Status.OK}


class Breaking:
    """Compares with what was said of the group while nothing was broken."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self._before = problems(pipeline)

    def sees(self, id: str, status: str, *words: str) -> Line:
        """Exactly this line is new, or another one than before."""
        now = problems(self.pipeline)
        new = [line for key, line in now.items() if self._before.get(key) != line]
        assert [(line.id, line.status.value) for line in new] == [(id, status)], new
        (line,) = new
        assert line.remedy
        assert line.why
        for word in words:
            assert word in f"{line.found}\n{line.remedy}", line
        return line

    def sees_nothing(self) -> None:
        """What was broken is repaired."""
        assert problems(self.pipeline) == self._before
