"""Memory is bounded, whatever the size of a transaction."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fixtures.pipeline import Pipelines
from tests.support.pipeline import FOLLOWER

pytestmark = pytest.mark.faults

APPLY = f"apply {FOLLOWER}"
ROWS = 300_000
MEGABYTE = 2**20


def peak(pid: int) -> int:
    """The most that was resident so far, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the kernel does not tell the peak")
def test_a_giant_transaction_adds_less_than_100_mb_to_capture_and_apply(pipelines: Pipelines):
    pipeline = pipelines.new("CREATE TABLE t (id int PRIMARY KEY, x text, n numeric)").init().bootstrap().start()
    pipeline.execute("INSERT INTO t SELECT i, 'before', i FROM generate_series(1, 2000) i", "DELETE FROM t")
    pipeline.catch_up()
    pids = {name: pipeline.group.daemon(name).pid for name in ("capture", APPLY)}
    before = {name: peak(pid) for name, pid in pids.items()}

    pipeline.execute(
        f"INSERT INTO t SELECT i, 'row number ' || i || repeat('.', 60), i FROM generate_series(1, {ROWS}) i"
    )
    pipeline.catch_up(seconds=120)

    after = {name: peak(pid) for name, pid in pids.items()}
    for name in pids:
        assert after[name] - before[name] < 100 * MEGABYTE, name
        assert after[name] < 200 * MEGABYTE, name
    pipeline.assert_equal()
