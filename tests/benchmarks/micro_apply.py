"""CPU a row of the applier's own work, without servers: python -m tests.benchmarks.micro_apply

Prints microseconds of CPU, the best of several runs, for the rows of `micro_capture`. What is not in it: the clients
of Kafka and PostgreSQL, and what the applier does with each record that is read by itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from operator import itemgetter

import orjson

from cdc.events.net_effect import Change, Lines, collapse
from cdc.events.table import ReplicaIdentity, TableId, TableSchema
from cdc.log.chain import Chain
from cdc.log.records import parse
from cdc.log.runs import Run
from cdc.ports import TablePlan
from cdc.services.batches import BatchReader, Gathered
from connectors.postgres.copy_text import copy_text
from tests.benchmarks.micro_capture import NAMES, ROWS, assemble, best, frames_of, row
from tests.support import wire
from tests.support.replay import Record

_WINDOW = 300
"""Records; `Run.rows` takes no more than 256 KB at once."""


def main() -> None:
    records = assemble(frames_of(ROWS, lambda number: wire.insert(16400, row(number))))
    values = [value for _, value in records if b'"kind":' not in value][:-1]
    windows = [(values[first : first + _WINDOW], first + 1) for first in range(0, len(values), _WINDOW)]
    run = Run.of(values[0], orjson.loads(values[0]), NAMES)
    assert run is not None
    rows = [run.rows(*window)[0] for window in windows]
    updates: list[list[Change]] = [[("u", "", None, row, False, 1, 1, 1) for row in window] for window in rows]
    lines = [
        [Lines("", ["u"] * len(window), [row["id"] for row in window], [copy_text([row.values()]) for row in window])]
        for window in rows
    ]
    for title, work in (
        ("read a record", lambda: (parse(value, 1) for value in values)),
        ("read a record of a run", lambda: (run.rows(*window) for window in windows)),
        ("read many, compiled", lambda: _read_compiled(values)),
        ("net effect of updates", lambda: (collapse(window, itemgetter("id"), NAMES) for window in updates)),
        ("the same of lines", lambda: (collapse(window, itemgetter("id"), NAMES) for window in lines)),
        ("text of COPY", lambda: (copy_text(map(dict.values, window)) for window in rows)),
    ):
        # Kept results would have the garbage collector look at them again and again.
        cost = best(lambda work=work: deque(work(), maxlen=0))  # type: ignore[misc]
        print(f"{title:24} {cost:6.2f} us")


def _read_compiled(values: list[bytes]) -> Iterator[Gathered | None]:
    event = orjson.loads(values[0])
    schema = TableSchema(TableId("public", "t"), ReplicaIdentity.DEFAULT, ())
    reader, chain = BatchReader(), Chain(event["cdc"]["epoch"], event["cdc"]["commit_lsn"] - 1)
    reader.learn(values[0], event, TablePlan(schema, NAMES, ("id",), True, False, False), NAMES)
    for first in range(0, len(values), _WINDOW):
        records = [Record(first, value) for value in values[first : first + _WINDOW]]
        gathered = reader.read(records, 0, chain, "")
        assert gathered is not None, "not compiled: python ops/compile.py"
        yield gathered


if __name__ == "__main__":
    main()
