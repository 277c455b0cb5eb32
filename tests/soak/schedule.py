"""What the nemesis does and when: derived from the seed and the length alone, so that a run can be had again.

A schedule is a list of rounds. In one kind of round the faults come one after the other, so that recovery from each
can be timed; in the other they overlap. After each round everything is healed, the load rests, and all rows are
compared.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from tests.support.pipeline import FOLLOWER, LEADER, OTHER_FOLLOWER

FOLLOWERS = (FOLLOWER, OTHER_FOLLOWER)
KAFKA = "kafka"
DAEMONS = ("capture", *(f"apply {name}" for name in FOLLOWERS))
POSTGRES = (LEADER, *FOLLOWERS)
SERVERS = (*POSTGRES, KAFKA)
CAPTURE_TO_KAFKA, APPLY_TO_KAFKA = "capture-kafka", "apply-kafka"
LINKS = (*POSTGRES, CAPTURE_TO_KAFKA, APPLY_TO_KAFKA)
"""Each between a server and the daemons that use it."""
GIANT_SIZES = (20_000, 40_000, 60_000)
"""Rows of `bulk` after a giant transaction."""

ROUND_SECONDS = 90.0
REST_SECONDS = 25.0
"""What a rest takes by experience; only to know how many rounds fit in."""
_SETTLE_SECONDS = 12.0
"""Between two faults of a round in which recovery is timed."""
_SHORTEST_GAP, _LONGEST_GAP = 1.0, 9.0
_SPACING_SECONDS = 6.0
"""Between two faults of one target."""


@dataclass(frozen=True, slots=True)
class Step:
    """At `at` seconds of its round `fault` befalls `target`, for `seconds`. `how` is the fault's variant."""

    at: float
    fault: str
    target: str
    how: str
    seconds: float

    def __str__(self) -> str:
        how = f" ({self.how})" if self.how else ""
        return f"{self.fault}{how} {self.target}" + (f" for {self.seconds:.1f} s" if self.seconds else "")


@dataclass(frozen=True, slots=True)
class Round:
    seconds: float
    overlapping: bool
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Schedule:
    seed: int
    minutes: float
    rounds: tuple[Round, ...]

    def lines(self) -> Iterator[str]:
        """For people."""
        for number, one in enumerate(self.rounds, 1):
            yield f"round {number}: {one.seconds:.0f} s, faults {'overlap' if one.overlapping else 'one by one'}"
            yield from (f"  {step.at:6.1f} s  {step}" for step in one.steps)

    def write(self, file: Path) -> None:
        file.write_bytes(orjson.dumps(asdict(self), option=orjson.OPT_INDENT_2))

    @classmethod
    def read(cls, file: Path) -> Schedule:
        """Raises ValueError, KeyError or TypeError for what is not a schedule."""
        found = orjson.loads(file.read_bytes())
        rounds = tuple(
            Round(one["seconds"], one["overlapping"], tuple(Step(**step) for step in one["steps"]))
            for one in found["rounds"]
        )
        return cls(found["seed"], found["minutes"], rounds)


@dataclass(frozen=True, slots=True)
class _Kind:
    """A fault with its variants and the shortest and longest time that it lasts."""

    fault: str
    targets: tuple[str, ...]
    hows: tuple[str, ...] = ("",)
    shortest: float = 0.0
    longest: float = 0.0


KINDS = (
    _Kind("kill", (*DAEMONS, *SERVERS), shortest=0.0, longest=3.0),
    _Kind("pause", (*DAEMONS, *SERVERS), shortest=1.0, longest=15.0),
    _Kind("restart", DAEMONS, shortest=0.0, longest=1.0),
    _Kind("restart", POSTGRES, ("fast", "immediate"), shortest=0.0, longest=1.0),
    _Kind("restart", (KAFKA,), shortest=0.0, longest=1.0),
    _Kind("disconnect", POSTGRES),
    _Kind("link", LINKS, ("cut", "half-open", "latency", "reset"), shortest=1.0, longest=12.0),
    _Kind("full disk", SERVERS, shortest=2.0, longest=8.0),
    _Kind("lock", FOLLOWERS, shortest=2.0, longest=10.0),
    _Kind("column", ("toasted", "account", "item"), ("alone", "with rows"), shortest=1.0, longest=8.0),
    _Kind("giant", ("bulk",), tuple(map(str, GIANT_SIZES))),
)


def make(seed: int, minutes: float) -> Schedule:
    """The same schedule for the same arguments, on every machine."""
    chance = random.Random(seed)
    deck = _deck(chance)
    count = max(1, round(minutes * 60 / (ROUND_SECONDS + REST_SECONDS)))
    length = min(ROUND_SECONDS, max(20.0, minutes * 60 - REST_SECONDS))
    first = chance.random() < 0.5
    rounds = [_round(chance, deck, length, (number % 2 == 0) == first) for number in range(count)]
    return Schedule(seed, minutes, tuple(rounds))


def _round(chance: random.Random, deck: Iterator[tuple[_Kind, str, str]], length: float, overlapping: bool) -> Round:
    steps: list[Step] = []
    busy: dict[str, float] = {}
    at = chance.uniform(1.0, 3.0)
    while at < length - 5.0:
        kind, target, how = next(deck)
        seconds = round(chance.uniform(kind.shortest, kind.longest), 1)
        place = f"link {target}" if kind.fault == "link" else target
        start = round(max(at, busy.get(place, 0.0)), 1)
        steps.append(Step(start, kind.fault, target, how, seconds))
        busy[place] = start + seconds + _SPACING_SECONDS
        at = at + chance.uniform(_SHORTEST_GAP, _LONGEST_GAP) if overlapping else start + seconds + _SETTLE_SECONDS
    steps.sort(key=lambda step: step.at)
    return Round(length, overlapping, tuple(steps))


def _deck(chance: random.Random) -> Iterator[tuple[_Kind, str, str]]:
    """Every fault on every target once, in any order, before any comes again."""
    cards = [(kind, target, how) for kind in KINDS for target in kind.targets for how in kind.hows]
    while True:
        chance.shuffle(cards)
        yield from cards
