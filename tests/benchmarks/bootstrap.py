"""How fast a follower is copied, by `pg_dump -Fd -j N` and `pg_restore -j N`, and by `cdc bootstrap`, in one run.

All copy the same database between the same two servers, one after the other, with the same number of jobs. The dump
is measured as it is by default, and without compression, which is faster where there is disk enough. A copy
whose rows are not those of the leader has no result.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

import click
import orjson
import psycopg
from rich.console import Console
from rich.table import Table

from cdc.local import PostgresServer, find_kafka
from cdc.local.group import Group
from tests.benchmarks.processes import Memory
from tests.benchmarks.report import Circumstances
from tests.benchmarks.servers import SETTINGS

DDL = """
CREATE TABLE {table} (
    id bigint PRIMARY KEY, customer int NOT NULL, state text NOT NULL, amount numeric(12,2) NOT NULL,
    note text, payload jsonb, at timestamptz NOT NULL)
"""
FILL = """
INSERT INTO {table} SELECT i, i % 1000, 'new', i * 0.01, repeat(md5(i::text), 3),
    jsonb_build_object('k', i, 'tags', '["a", "b"]'::jsonb), now() FROM generate_series(1, {rows}) AS i
"""
INDEX = "CREATE INDEX ON {table} (customer)"
PEERS = {"pg_dump | pg_restore": (), "without compression": ("--compress=none",)}
OURS = "cdc bootstrap"


@dataclass
class Measure:
    """Seconds of each run, and the highest resident memory of `cdc bootstrap` in MB."""

    rows: int
    seconds: dict[str, list[float]] = field(default_factory=dict)
    memory_mb: float = 0.0

    def add(self, name: str, seconds: float) -> None:
        self.seconds.setdefault(name, []).append(round(seconds, 2))

    def rate(self, name: str) -> float:
        return self.rows / median(self.seconds[name])

    @property
    def ratio(self) -> float:
        """To the faster peer."""
        return self.rate(OURS) / max(map(self.rate, PEERS))


class Bench:
    """A leader's database with rows in `tables` tables, and a server for followers."""

    def __init__(self, leader: PostgresServer, follower: PostgresServer, kafka: str, folder: Path, jobs: int) -> None:
        self._leader, self._follower = leader, follower
        self._kafka = kafka
        self._folder = folder
        self._jobs = jobs
        self._number = 0

    def measure(self, rows: int, tables: int, runs: int, tell: Callable[[str], None]) -> Measure:
        name = f"source_{tables}"
        tell(f"filling {tables} tables with {rows} rows")
        source = self._leader.create_database(name)
        names = [f"items_{number}" for number in range(tables)]
        with psycopg.connect(source, autocommit=True) as connection:
            for table in names:
                for statement in (DDL, FILL, INDEX, "VACUUM ANALYZE {table}"):
                    connection.execute(statement.format(table=table, rows=rows // tables).encode())
            connection.execute("CHECKPOINT")
        measure = Measure(rows // tables * tables)
        for run in range(runs):
            for peer, options in PEERS.items():
                tell(f"run {run + 1} of {runs}: {peer}")
                with self._target(source, names) as target:
                    measure.add(peer, self._dump_and_restore(source, target, options))
            tell(f"run {run + 1} of {runs}: {OURS}")
            with self._target(source, names) as target:
                seconds, memory_mb = self._bootstrap(source, target)
                measure.add(OURS, seconds)
                measure.memory_mb = max(measure.memory_mb, round(memory_mb, 1))
        self._leader.drop_database(name)
        return measure

    @contextmanager
    def _target(self, source: str, tables: list[str]) -> Iterator[str]:
        """An empty database, whose rows are compared with the source's in the end."""
        self._number += 1
        name = f"target_{self._number}"
        target = self._follower.create_database(name)
        with psycopg.connect(target, autocommit=True) as connection:
            connection.execute("CHECKPOINT")
        yield target
        for table in tables:
            query = f"SELECT count(*), sum(hashtext(t::text)::bigint) FROM {table} t".encode()
            found = []
            for dsn in (source, target):
                with psycopg.connect(dsn) as connection:
                    found.append(connection.execute(query).fetchone())
            if found[0] != found[1]:
                raise click.ClickException(f"the rows of {table} are not the leader's: no result")
        self._follower.drop_database(name)

    def _dump_and_restore(self, source: str, target: str, options: tuple[str, ...]) -> float:
        dump = self._folder / "dump"
        jobs = f"--jobs={self._jobs}"
        programs = Path(self._leader.bin_dir)
        began = time.perf_counter()
        subprocess.run([programs / "pg_dump", "-Fd", jobs, *options, f"--file={dump}", source], check=True)
        subprocess.run([programs / "pg_restore", jobs, f"--dbname={target}", dump], check=True)
        seconds = time.perf_counter() - began
        shutil.rmtree(dump)
        return seconds

    def _bootstrap(self, source: str, target: str) -> tuple[float, float]:
        folder = self._folder / str(self._number)
        folder.mkdir()
        group = Group(folder, f"bench{self._number}", "leader", {"leader": source, "follower": target}, self._kafka)
        try:
            made = group.run("init")
            if made.returncode:
                raise click.ClickException(made.stderr)
            began = time.perf_counter()
            copy = group.start_command("copy", "bootstrap", "--follower", "follower", "--jobs", str(self._jobs))
            with Memory({"copy": [copy.pid]}) as memory:
                code = copy.wait()
            seconds = time.perf_counter() - began
            if code:
                raise click.ClickException(group.tail_of_logs())
            return seconds, memory.peak_mb["copy"]
        finally:
            with psycopg.connect(source, autocommit=True) as connection:
                connection.execute("SELECT pg_drop_replication_slot(%s)", (group.slot,))
                connection.execute("DROP SCHEMA cdc CASCADE")
                connection.execute(f"DROP PUBLICATION {group.slot}".encode())


def _table(measures: dict[str, Measure]) -> Table:
    table = Table(title="first copy of a follower, rows a second (median)")
    for column in ("tables", "rows", *PEERS, OURS, "ratio", "peak memory MB"):
        table.add_column(column, justify="right")
    for tables, measure in measures.items():
        rates = [f"{measure.rate(name):,.0f}" for name in (*PEERS, OURS)]
        table.add_row(tables, f"{measure.rows:,}", *rates, f"{measure.ratio:.2f}", f"{measure.memory_mb:.0f}")
    return table


@click.command()
@click.option("--rows", default=10_000_000, show_default=True, type=click.IntRange(min=1000))
@click.option("--tables", multiple=True, default=(1, 50), show_default=True, type=click.IntRange(min=1))
@click.option("--jobs", default=os.cpu_count() or 2, show_default=True, type=click.IntRange(min=1))
@click.option("--runs", default=1, show_default=True, type=click.IntRange(min=1))
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write all figures here.")
def main(rows: int, tables: tuple[int, ...], jobs: int, runs: int, json_file: Path | None) -> None:
    """Copy ROWS rows in one table, and in fifty, and print the ratio to the faster of the two dumps."""
    console = Console(stderr=True)
    measures: dict[str, Measure] = {}
    circumstances = Circumstances()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cdc-bench-")))
        leader = stack.enter_context(PostgresServer(settings=SETTINGS)).start()
        follower = stack.enter_context(PostgresServer(settings=SETTINGS)).start()
        kafka = stack.enter_context(find_kafka(None)).start()
        console.print(f"PostgreSQL {leader.version}, {jobs} jobs")
        bench = Bench(leader, follower, kafka.bootstrap_servers, folder, jobs)
        for count in tables:
            measures[str(count)] = bench.measure(rows, count, runs, console.print)
    Console().print(_table(measures))
    if json_file:
        told = {name: asdict(measure) | {"ratio": round(measure.ratio, 3)} for name, measure in measures.items()}
        facts = circumstances.facts(runs=runs, jobs=jobs, tables=told)
        json_file.write_bytes(orjson.dumps(facts, option=orjson.OPT_INDENT_2))


if __name__ == "__main__":
    main()
