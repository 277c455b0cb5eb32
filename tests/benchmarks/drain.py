"""How fast a backlog drains, by PostgreSQL's own logical replication and by this project, in one run.

Both engines replicate the same table between the same two servers, one engine at a time. Its processes
are held by SIGSTOP while the leader takes the load, then let go; the clock stops when the follower
shows the final transaction. A run whose rows are not equal has no result.
"""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import click
import orjson
import psutil
import psycopg
from rich.console import Console
from rich.table import Table

from cdc.local import PostgresServer, find_kafka
from cdc.local.group import Group

WARM_UP_ROWS = 200_000
"""Not counted: Kafka's JVM compiles what it runs, caches fill, and the first batches of each engine differ."""
CATCH_UP_SECONDS = 300.0
DDL = """
CREATE TABLE items (
    id bigint PRIMARY KEY, customer int NOT NULL, state text NOT NULL, amount numeric(12,2) NOT NULL,
    note text, payload jsonb, at timestamptz NOT NULL)
"""
INSERT = """
INSERT INTO items SELECT i, i %% 1000, 'new', i * 0.01, repeat(md5(i::text), 3),
    jsonb_build_object('k', i, 'tags', '["a", "b"]'::jsonb), now()
FROM generate_series(%s::bigint, %s::bigint) AS i
"""
UPDATE = "UPDATE items SET state = %s, amount = amount + 1, at = now() WHERE id BETWEEN %s AND %s"
SERVER_SETTINGS = {
    "shared_buffers": "512MB",
    "max_wal_size": "8GB",
    "wal_sender_timeout": "0",
    "wal_receiver_timeout": "0",
    "checkpoint_timeout": "30min",
}


@dataclass(frozen=True)
class Sizes:
    inserts: int
    updates: int
    singles: int
    big: int


@dataclass
class Measure:
    """Of one workload by one engine: rows per second of each run, and the highest resident memory in MB."""

    rows: int
    rates: list[float] = field(default_factory=list)
    memory_mb: dict[str, float] = field(default_factory=dict)
    cpu_seconds: dict[str, float] = field(default_factory=dict)


class Engine(Protocol):
    name: str

    def processes(self) -> dict[str, int]:
        """Names and ids of the processes that do the work and are held during the load."""
        ...


# The load. Each returns the query that shows its final transaction on the follower.


def load_inserts(leader: psycopg.Connection, first: int, count: int, per_transaction: int) -> str:
    for start in range(first, first + count, per_transaction):
        leader.execute(INSERT, (start, start + per_transaction - 1))
    return f"SELECT count(*) FROM items WHERE id = {first + count - 1}"


def load_updates(leader: psycopg.Connection, count: int, per_transaction: int) -> str:
    state = f"paid {time.monotonic_ns()}"
    for start in range(0, count, per_transaction):
        leader.execute(UPDATE, (state, start, start + per_transaction - 1))
    return f"SELECT count(*) FROM items WHERE id = {count - 1} AND state = '{state}'"


def load_singles(leader: psycopg.Connection, first: int, count: int) -> str:
    """A commit a row, made on the server, without waiting for the disk: the load is not what is measured."""
    row = INSERT.replace("%%", "%").replace("generate_series(%s::bigint, %s::bigint)", "generate_series(n, n)")
    leader.execute("SET synchronous_commit = off")
    leader.execute(
        f"DO $$ BEGIN FOR n IN {first}..{first + count - 1} LOOP {row}; COMMIT; END LOOP; END $$"  # type: ignore[arg-type, unused-ignore]
    )
    leader.execute("RESET synchronous_commit")
    return f"SELECT count(*) FROM items WHERE id = {first + count - 1}"


class Run:
    """One engine on fresh databases, through all workloads."""

    def __init__(self, engine: Engine, leader_dsn: str, follower_dsn: str, sizes: Sizes) -> None:
        self._engine = engine
        self._sizes = sizes
        self._leader = psycopg.connect(leader_dsn, autocommit=True)
        self._follower = psycopg.connect(follower_dsn, autocommit=True)

    def measure_all(self, results: dict[str, Measure]) -> None:
        sizes = self._sizes
        for first in range(-WARM_UP_ROWS, 0, WARM_UP_ROWS // 2):
            half = WARM_UP_ROWS // 2
            self._drain("warm-up", half, partial(load_inserts, self._leader, first, half, 1_000), {})
        self._drain("inserts", sizes.inserts, lambda: load_inserts(self._leader, 0, sizes.inserts, 1_000), results)
        self._drain("updates", sizes.updates, lambda: load_updates(self._leader, sizes.updates, 1_000), results)
        first = sizes.inserts
        self._drain("single rows", sizes.singles, lambda: load_singles(self._leader, first, sizes.singles), results)
        if sizes.big:
            first += sizes.singles
            self._drain("one transaction", sizes.big,
                        lambda: load_inserts(self._leader, first, sizes.big, sizes.big), results)  # fmt: skip
        self._compare()

    def _drain(self, workload: str, rows: int, load: Callable[[], str], results: dict[str, Measure]) -> None:
        held = self._engine.processes()
        with _held(list(held.values())):
            shown = load()
            self._leader.execute("CHECKPOINT")
            before = _cpu(held)
            started = time.perf_counter()
        with Memory(held) as memory:
            self._wait_for(shown)
        seconds = time.perf_counter() - started
        measure = results.setdefault(workload, Measure(rows))
        measure.rates.append(rows / seconds)
        after = _cpu(held)
        for name in held:
            measure.memory_mb[name] = max(measure.memory_mb.get(name, 0.0), memory.peak_mb[name])
            measure.cpu_seconds[name] = round(after[name] - before[name], 2)

    def _wait_for(self, query: str) -> None:
        deadline = time.monotonic() + CATCH_UP_SECONDS
        while True:
            row = self._follower.execute(query).fetchone()  # type: ignore[arg-type, unused-ignore]
            if row and row[0]:
                return
            if time.monotonic() > deadline:
                raise click.ClickException(f"{self._engine.name} did not catch up in {CATCH_UP_SECONDS:.0f} s")
            time.sleep(0.01)

    def _compare(self) -> None:
        query = "SELECT count(*), md5(string_agg(md5(items::text), '' ORDER BY id)) FROM items"
        if self._leader.execute(query).fetchone() != self._follower.execute(query).fetchone():
            raise click.ClickException(f"{self._engine.name}: the follower's rows are not the leader's; no result")

    def close(self) -> None:
        self._leader.close()
        self._follower.close()


class Native:
    """A subscription of PostgreSQL itself, with its defaults."""

    name = "native"

    def __init__(self, leader: PostgresServer, follower: PostgresServer, leader_dsn: str, follower_dsn: str) -> None:
        self._follower_dsn = follower_dsn
        self._leader_dsn = leader_dsn
        with psycopg.connect(leader_dsn, autocommit=True) as connection:
            connection.execute(DDL)
            connection.execute("CREATE PUBLICATION bench FOR TABLE items")
        with psycopg.connect(follower_dsn, autocommit=True) as connection:
            connection.execute(DDL)
            connection.execute(
                f"CREATE SUBSCRIPTION bench CONNECTION '{leader_dsn}' PUBLICATION bench WITH (copy_data = false)"
            )

    def processes(self) -> dict[str, int]:
        return {"apply": self._worker()}

    def _worker(self) -> int:
        for _ in range(200):
            with psycopg.connect(self._follower_dsn) as connection:
                row = connection.execute(
                    "SELECT pid FROM pg_stat_subscription WHERE subname = 'bench' AND pid IS NOT NULL "
                    "AND latest_end_lsn IS NOT NULL"
                ).fetchone()
            if row:
                return int(row[0])
            time.sleep(0.1)
        raise click.ClickException("the subscription's worker does not start")

    def close(self) -> None:
        with psycopg.connect(self._follower_dsn, autocommit=True) as connection:
            connection.execute("DROP SUBSCRIPTION bench")


class Ours:
    """`cdc capture` and `cdc apply` with their defaults, and Kafka between."""

    name = "cdc"

    def __init__(self, folder: Path, number: int, leader_dsn: str, follower_dsn: str, servers: str) -> None:
        with psycopg.connect(leader_dsn, autocommit=True) as connection:
            connection.execute(DDL)
        nodes = {"leader": leader_dsn, "follower": follower_dsn}
        self._leader_dsn = leader_dsn
        self._group = Group(folder, f"bench{number}", "leader", nodes, servers)
        self._must("init")
        self._must("bootstrap", "--follower", "follower")
        self._group.start("capture")
        self._group.start("apply", "follower")

    def _must(self, *arguments: str) -> None:
        done = self._group.run(*arguments)
        if done.returncode:
            raise click.ClickException(done.stderr)

    def processes(self) -> dict[str, int]:
        return {"capture": self._group.daemon("capture").pid, "apply": self._group.daemon("apply follower").pid}

    def close(self) -> None:
        self._group.close()
        with psycopg.connect(self._leader_dsn, autocommit=True) as connection:
            connection.execute("SELECT pg_drop_replication_slot(%s)", (self._group.slot,))


class Memory:
    """Highest resident memory of some processes while the `with` lasts."""

    def __init__(self, processes: dict[str, int]) -> None:
        self.peak_mb = dict.fromkeys(processes, 0.0)
        self._processes = {name: psutil.Process(pid) for name, pid in processes.items()}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            for name, process in self._processes.items():
                self.peak_mb[name] = max(self.peak_mb[name], process.memory_info().rss / 2**20)
            if self._done.wait(0.1):
                return


def _cpu(processes: dict[str, int]) -> dict[str, float]:
    return {name: sum(psutil.Process(pid).cpu_times()[:2]) for name, pid in processes.items()}


@contextmanager
def _held(pids: list[int]) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def _measure(sizes: Sizes, runs: int, console: Console) -> dict[str, dict[str, Measure]]:
    results: dict[str, dict[str, Measure]] = {"native": {}, "cdc": {}}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cdc-bench-")))
        leader = stack.enter_context(PostgresServer(settings=SERVER_SETTINGS)).start()
        follower = stack.enter_context(PostgresServer(settings=SERVER_SETTINGS)).start()
        kafka = stack.enter_context(find_kafka(None)).start()
        console.print(f"PostgreSQL {leader.version}, {kafka.description}")
        for number in range(runs):
            for name in ("native", "cdc"):
                console.print(f"run {number + 1} of {runs}: {name}")
                databases = (leader.create_database(f"{name}{number}"), follower.create_database(f"{name}{number}"))
                engine: Any
                if name == "native":
                    engine = Native(leader, follower, *databases)
                else:
                    own = folder / str(number)
                    own.mkdir()
                    engine = Ours(own, number, *databases, kafka.bootstrap_servers)
                run = Run(engine, *databases, sizes)
                try:
                    run.measure_all(results[name])
                finally:
                    run.close()
                    engine.close()
    return results


def _table(results: dict[str, dict[str, Measure]]) -> Table:
    table = Table(title="drain of a backlog, rows a second (median)")
    for column in ("workload", "rows", "native", "cdc", "ratio", "CPU s of the last run", "peak memory MB"):
        table.add_column(column, justify="left" if column == "workload" else "right")
    for workload, ours in results["cdc"].items():
        native = results["native"][workload]
        rates = median(native.rates), median(ours.rates)
        table.add_row(
            workload, f"{ours.rows:,}", f"{rates[0]:,.0f}", f"{rates[1]:,.0f}", f"{rates[1] / rates[0]:.2f}",
            ", ".join(f"{name} {seconds:.1f}" for name, seconds in ours.cpu_seconds.items()),
            ", ".join(f"{name} {size:.0f}" for name, size in ours.memory_mb.items()),
        )  # fmt: skip
    return table


@click.command()
@click.option("--runs", default=3, show_default=True, type=click.IntRange(min=1))
@click.option("--scale", default=1.0, show_default=True, help="Multiplies the number of rows.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write all figures here.")
def main(runs: int, scale: float, json_file: Path | None) -> None:
    """Drain 300k inserts, 300k updates, 100k single-row transactions and one of 1M rows, and print the ratio."""
    console = Console(stderr=True)
    sizes = Sizes(*(int(count * scale) // 1000 * 1000 for count in (300_000, 300_000, 100_000, 1_000_000)))
    results = _measure(sizes, runs, console)
    Console().print(_table(results))
    if json_file:
        told = {engine: {name: asdict(measure) for name, measure in of.items()} for engine, of in results.items()}
        facts = {"machine": platform.machine(), "cpus": os.cpu_count(), "python": sys.version.split()[0],
                 "commit": _commit(), "runs": runs}  # fmt: skip
        json_file.write_bytes(orjson.dumps({**facts, "results": told}, option=orjson.OPT_INDENT_2))


def _commit() -> str:
    asked = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)  # noqa: S607
    return asked.stdout.strip() or "unknown"


if __name__ == "__main__":
    main()
