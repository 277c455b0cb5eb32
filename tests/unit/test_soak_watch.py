"""What no state of the leader was is seen in a snapshot, whichever of its rules it breaks."""

from __future__ import annotations

from typing import Any

import pytest

from tests.soak.schedule import GIANT_SIZES
from tests.soak.watch import Look
from tests.soak.workloads import SEATS
from tests.support.bank import TOTAL

GOOD = Look(
    lsn=1000, n=50, total=TOTAL, entries=20, newest_entry=50, torn_documents=0, places=SEATS, late_places=SEATS,
    tree_size=9, nodes=9, orphans=0, effects_without_cause=0, torn_batches=0, bulk=GIANT_SIZES[0],
)  # fmt: skip
BASE = 30


def test_a_state_of_the_leader_is_nothing_wrong():
    assert GOOD.wrongs(BASE) == []
    assert GOOD._replace(n=10, newest_entry=10, entries=0, bulk=0).wrongs(BASE) == []


@pytest.mark.parametrize(
    "change",
    [
        {"total": TOTAL - 1},
        {"entries": 19},
        {"newest_entry": 51},
        {"n": 51},
        {"torn_documents": 1},
        {"places": SEATS - 1},
        {"late_places": SEATS - 1},
        {"nodes": 8},
        {"orphans": 1},
        {"effects_without_cause": 1},
        {"torn_batches": 1},
        {"bulk": GIANT_SIZES[0] - 1},
    ],
    ids=str,
)
def test_anything_else_is_told(change: dict[str, Any]):
    assert len(GOOD._replace(**change).wrongs(BASE)) == 1
