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
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
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

from cdc.local import KafkaServer, PostgresServer, find_kafka
from cdc.local.group import Group
from cdc.local.kafka import ProcessKafka

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
    """Of one workload by one engine, by run: rows a second, and by process microseconds of CPU a row and the highest
    resident memory in MB."""

    rows: int
    rates: list[float] = field(default_factory=list)
    cpu_us: dict[str, list[float]] = field(default_factory=dict)
    memory_mb: dict[str, list[float]] = field(default_factory=dict)

    def add(self, seconds: float, cpu_seconds: dict[str, float], memory_mb: dict[str, float]) -> None:
        self.rates.append(self.rows / seconds)
        for name, spent in cpu_seconds.items():
            self.cpu_us.setdefault(name, []).append(round(spent / self.rows * 1e6, 2))
        for name, size in memory_mb.items():
            self.memory_mb.setdefault(name, []).append(round(size))


class Engine(Protocol):
    name: str

    def processes(self) -> dict[str, int]:
        """Names and ids of the processes that do the work and are held during the load."""
        ...

    def servers(self) -> dict[str, int]:
        """Those of the servers' processes that work for them."""
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
        working = {**held, **self._engine.servers()}
        with _held(list(held.values())):
            shown = load()
            self._leader.execute("CHECKPOINT")
            before = _cpu(working)
            started = time.perf_counter()
        with Memory(held) as memory:
            self._wait_for(shown)
        seconds = time.perf_counter() - started
        after = _cpu(working)
        spent = {name: after[name] - before[name] for name in after if name in before}
        results.setdefault(workload, Measure(rows)).add(seconds, spent, memory.peak_mb)

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

    def servers(self) -> dict[str, int]:
        return {
            "walsender": _pid(self._leader_dsn, "SELECT active_pid FROM pg_replication_slots WHERE slot_name = 'bench'")
        }

    def close(self) -> None:
        with psycopg.connect(self._follower_dsn, autocommit=True) as connection:
            connection.execute("DROP SUBSCRIPTION bench")


class Ours:
    """`cdc capture` and `cdc apply` with their defaults, and Kafka between."""

    name = "cdc"

    def __init__(self, folder: Path, number: int, leader_dsn: str, follower_dsn: str, kafka: KafkaServer) -> None:
        with psycopg.connect(leader_dsn, autocommit=True) as connection:
            connection.execute(DDL)
        nodes = {"leader": leader_dsn, "follower": follower_dsn}
        self._leader_dsn, self._follower_dsn = leader_dsn, follower_dsn
        self._kafka = kafka
        self._group = Group(folder, f"bench{number}", "leader", nodes, kafka.bootstrap_servers)
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

    def servers(self) -> dict[str, int]:
        slot = f"SELECT active_pid FROM pg_replication_slots WHERE slot_name = '{self._group.slot}'"
        backend = "SELECT pid FROM pg_stat_activity WHERE application_name = 'cdc apply follower'"
        own = {"walsender": _pid(self._leader_dsn, slot), "backend": _pid(self._follower_dsn, backend)}
        return own | ({"broker": self._kafka.pid} if isinstance(self._kafka, ProcessKafka) else {})

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
                with suppress(psutil.NoSuchProcess):
                    self.peak_mb[name] = max(self.peak_mb[name], process.memory_info().rss / 2**20)
            if self._done.wait(0.1):
                return


def _cpu(processes: dict[str, int]) -> dict[str, float]:
    """Without those that are gone: a daemon that was held for long may connect anew, and gets other ones."""
    spent = {}
    for name, pid in processes.items():
        with suppress(psutil.NoSuchProcess):
            spent[name] = sum(psutil.Process(pid).cpu_times()[:2])
    return spent


def _pid(dsn: str, query: str) -> int:
    """The process that `query` finds, as soon as it does."""
    deadline = time.monotonic() + CATCH_UP_SECONDS
    while time.monotonic() < deadline:
        with psycopg.connect(dsn) as connection:
            row = connection.execute(query).fetchone()  # type: ignore[arg-type, unused-ignore]
        if row and row[0]:
            return int(row[0])
        time.sleep(0.1)
    raise click.ClickException(f"a process is not there that is to be measured: {query}")


@contextmanager
def _held(pids: list[int]) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def _measure(sizes: Sizes, runs: int, console: Console) -> tuple[dict[str, dict[str, Measure]], list[str]]:
    """Results by engine and workload, and the versions of the servers."""
    results: dict[str, dict[str, Measure]] = {"native": {}, "cdc": {}}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cdc-bench-")))
        leader = stack.enter_context(PostgresServer(settings=SERVER_SETTINGS)).start()
        follower = stack.enter_context(PostgresServer(settings=SERVER_SETTINGS)).start()
        kafka = stack.enter_context(find_kafka(None)).start()
        servers = [f"PostgreSQL {leader.version}", kafka.description]
        console.print(", ".join(servers))
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
                    engine = Ours(own, number, *databases, kafka)
                run = Run(engine, *databases, sizes)
                try:
                    run.measure_all(results[name])
                finally:
                    run.close()
                    engine.close()
    return results, servers


def _table(results: dict[str, dict[str, Measure]]) -> Table:
    table = Table(title="drain of a backlog: rows a second, CPU a row, resident memory (medians)")
    for column in (
        "workload",
        "rows",
        "native",
        "cdc",
        "ratio",
        "CPU us a row, native",
        "CPU us a row, cdc",
        "memory MB",
    ):
        table.add_column(column, justify="left" if column == "workload" else "right")
    for workload, ours in results["cdc"].items():
        native = results["native"][workload]
        rates = median(native.rates), median(ours.rates)
        table.add_row(
            workload, f"{ours.rows:,}", f"{rates[0]:,.0f}", f"{rates[1]:,.0f}", f"{rates[1] / rates[0]:.2f}",
            _by_process(native.cpu_us, ".1f"), _by_process(ours.cpu_us, ".1f"), _by_process(ours.memory_mb, ".0f"),
        )  # fmt: skip
    return table


def _by_process(figures: dict[str, list[float]], form: str) -> str:
    return ", ".join(f"{name} {median(of):{form}}" for name, of in figures.items())


@click.command()
@click.option("--runs", default=3, show_default=True, type=click.IntRange(min=1))
@click.option("--scale", default=1.0, show_default=True, help="Multiplies the number of rows.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write all figures here.")
def main(runs: int, scale: float, json_file: Path | None) -> None:
    """Drain 300k inserts, 300k updates, 100k single-row transactions and one of 1M rows, and print the ratio."""
    console = Console(stderr=True)
    sizes = Sizes(*(int(count * scale) // 1000 * 1000 for count in (300_000, 300_000, 100_000, 1_000_000)))
    results, servers = _measure(sizes, runs, console)
    Console().print(_table(results))
    if json_file:
        told = {engine: {name: asdict(measure) for name, measure in of.items()} for engine, of in results.items()}
        facts = {**environment(), "servers": servers, "runs": runs}
        json_file.write_bytes(orjson.dumps({**facts, "results": told}, option=orjson.OPT_INDENT_2))


def environment() -> dict[str, object]:
    """What every figure was measured with."""
    return {"commit": _commit(), "machine": _machine()}


def _machine() -> dict[str, object]:
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.machine(),
        "cpus": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30),
        "python": platform.python_version(),
    }


def _commit() -> str:
    asked = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)  # noqa: S607
    return asked.stdout.strip() or "unknown"


if __name__ == "__main__":
    main()
