"""ops/reference/check.md lists the checks that there are, and each of them has a test that breaks what it looks at.

Its table is written anew by: python -m tests.unit.test_check_reference
"""

from __future__ import annotations

from pathlib import Path

from cdc.services.checks.report import PLACES, REACHED_WHY, reached

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "ops/reference/check.md"
BEGIN, END = "<!-- generated from code -->\n", "<!-- end -->\n"
TESTS = (
    "tests/integration/test_check.py",
    "tests/integration/test_check_rare.py",
    "tests/unit/test_checks.py",
    "tests/e2e/test_bad_input.py",
)


def table() -> str:
    lines = ["| check | what must hold | why |", "| --- | --- | --- |"]
    for checks in PLACES:
        if checks.place != "between":
            lines.append(f"| `{reached(checks)}` | it answers in time, and lets us in | {REACHED_WHY} |")
        lines += [f"| `{check.id}` | {check.what} | {check.why} |" for check in checks]
    return "\n".join(lines) + "\n"


def test_the_reference_is_fresh():
    text = REFERENCE.read_text()
    assert text[text.index(BEGIN) + len(BEGIN) : text.index(END)] == table()


def test_every_check_says_what_it_looks_at_and_why():
    for checks in PLACES:
        for check in checks:
            assert check.what, check.id
            assert check.why, check.id


def test_every_check_has_a_test():
    tests = "".join((ROOT / file).read_text() for file in TESTS)
    ids = [check.id for checks in PLACES for check in checks]
    assert len(ids) == len(set(ids))
    assert [id for id in ids if f'"{id}"' not in tests] == []


if __name__ == "__main__":
    text = REFERENCE.read_text()
    before, _, rest = text.partition(BEGIN)
    REFERENCE.write_text(before + BEGIN + table() + END + rest.partition(END)[2])
