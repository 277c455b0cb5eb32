"""CPU a row of capture's own work, without servers: python -m tests.benchmarks.micro_capture

Prints microseconds of CPU, the best of several runs, for rows of 7 columns in transactions of 1,000 rows
and of one row. What is not in it: libpq, the Kafka client.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from cdc.events.assembler import Assembler, Record, Resume
from cdc.log.envelope import Envelope, finished
from cdc.protocol.frames import XLOG_HEADER_SIZE
from cdc.protocol.lsn import Lsn
from cdc.protocol.pgoutput import decode_insert
from tests.support import wire

ROWS = 20_000
_RUNS = 15
_COLUMNS = [
    ("id", 20, -1, True),
    ("state", 25, -1, False),
    ("total", 1700, 655366, False),
    ("created_at", 1184, -1, False),
    ("note", 25, -1, False),
    ("paid", 16, -1, False),
    ("doc", 3802, -1, False),
]
NAMES = tuple(name for name, *_ in _COLUMNS)
_TYPES = {16: "pg_catalog.bool", 20: "pg_catalog.int8", 25: "pg_catalog.text", 1184: "pg_catalog.timestamptz",
          1700: "pg_catalog.numeric", 3802: "pg_catalog.jsonb"}  # fmt: skip


def row(number: int) -> list[str]:
    note = "about sixty characters of text, as a column of notes may hold"
    return [str(number), "paid", "19.90", "2026-01-31 07:56:39.123456+00", note, "t", '{"a": 1, "b": [1, 2, 3]}']


def frames_of(rows_a_transaction: int, message: Callable[[int], bytes]) -> list[bytes]:
    frames = [wire.xlog(wire.relation(16400, "public", "orders", "d", _COLUMNS))]
    lsn = 1 << 32
    for first in range(0, ROWS, rows_a_transaction):
        commit_lsn = lsn + rows_a_transaction * 100
        frames.append(wire.xlog(wire.begin(commit_lsn), lsn))
        for number in range(first, first + rows_a_transaction):
            lsn += 100
            frames.append(wire.xlog(message(number), lsn))
        frames.append(wire.xlog(wire.commit(commit_lsn, commit_lsn + 48), commit_lsn))
        lsn = commit_lsn + 48
    return frames


def assemble(frames: list[bytes]) -> list[Record]:
    envelope = Envelope("shop", "shop", "0.1.0", 1)
    assembler = Assembler(envelope, finished, _TYPES, Resume(Lsn(1), Lsn(2), Lsn(0), 0), time.time_ns)
    return [record for first in range(0, len(frames), 1000) for record in assembler.feed(frames[first : first + 1000])]


def best(run: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(_RUNS):
        start = time.process_time()
        run()
        best = min(best, time.process_time() - start)
    return best / ROWS * 1e6


def main() -> None:
    insert = wire.xlog(wire.insert(16400, row(1)), 1)
    inserts = frames_of(1000, lambda number: wire.insert(16400, row(number)))
    updates = frames_of(1000, lambda number: wire.update(16400, row(number)))
    singles = frames_of(1, lambda number: wire.insert(16400, row(number)))
    decode = best(lambda: [decode_insert(insert, XLOG_HEADER_SIZE, NAMES) for _ in range(ROWS)])
    print(f"decode an insert                        {decode:6.2f} us")
    for title, frames in (
        ("inserts, 1,000 a transaction", inserts),
        ("updates, 1,000 a transaction", updates),
        ("inserts, one a transaction", singles),
    ):
        cost = best(lambda frames=frames: assemble(frames))  # type: ignore[misc]
        print(f"frames to records, {title:30} {cost:6.2f} us")


if __name__ == "__main__":
    main()
