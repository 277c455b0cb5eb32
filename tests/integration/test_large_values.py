"""Values much larger than a record of Kafka, and the memory that they take on their way."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fixtures.pipeline import Pipelines
from tests.support.watched import DAEMONS, MEGABYTE, peak_memory

ALLOWANCE = 200 * MEGABYTE


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the kernel does not tell the peak")
@pytest.mark.parametrize("megabytes", [5, pytest.param(50, marks=pytest.mark.long)])
@pytest.mark.timeout(400)
def test_large_text_and_bytes_arrive_and_take_a_few_times_their_size(
    pipelines: Pipelines, postgres_version: int, megabytes: int
):
    # Given a running group.
    pipeline = pipelines.new(
        "CREATE TABLE t (id int PRIMARY KEY, v text, b bytea, n int)",
        "ALTER TABLE t ALTER v SET STORAGE EXTERNAL, ALTER b SET STORAGE EXTERNAL",
        version=postgres_version,
    ).init().bootstrap().start()  # fmt: skip
    size = megabytes * MEGABYTE

    # When values of that size are written, left alone, and changed; text that JSON has to escape among them.
    pipeline.execute(
        f"INSERT INTO t SELECT i, repeat(md5(i::text), {size // 32}), NULL, 0 FROM generate_series(1, 2) i",
        f"INSERT INTO t VALUES (3, repeat(E'\\\\\"\\n\\u6f22', {size // 6}), NULL, 0)",
        f"INSERT INTO t VALUES (4, NULL, decode(repeat('00ff5c0a', {size // 4}), 'hex'), 0)",
        "UPDATE t SET n = 1",
        "UPDATE t SET v = v || 'x' WHERE id = 2",
        "DELETE FROM t WHERE id = 1",
    )
    pipeline.catch_up(seconds=240)

    # Then they are there, and neither daemon held more than some copies of one of them.
    pipeline.assert_equal()
    for name in DAEMONS:
        used = peak_memory(pipeline.group.daemon(name).pid)
        assert used < ALLOWANCE + 12 * size, f"{name}: {used // MEGABYTE} MB"
