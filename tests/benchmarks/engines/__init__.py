"""What replicates: each engine, started anew for each run, between the same servers.

`_ENGINES` is the one place that knows all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.benchmarks.engines.debezium import Debezium
from tests.benchmarks.engines.discard import Discard
from tests.benchmarks.engines.engine import Engine
from tests.benchmarks.engines.native import Native
from tests.benchmarks.engines.ours import Ours, OursByUnixSocket
from tests.benchmarks.servers import Databases, Servers

__all__ = ["OURS", "PEERS", "WALSENDER", "Engine", "Ours", "engines_for", "running"]

_ENGINES: dict[str, Callable[[Servers, Databases], Engine]] = {
    kind.name: kind for kind in (Native, Ours, OursByUnixSocket, Debezium, Discard)
}
PEERS = (Native.name, Debezium.name, OursByUnixSocket.name)
OURS = Ours.name
WALSENDER = Discard.name


def engines_for(peers: tuple[str, ...]) -> tuple[str, ...]:
    """The peers first: each is measured beside what is ours."""
    return (*dict.fromkeys(peers), Ours.name)


@contextmanager
def running(name: str, servers: Servers, databases: Databases, make_tables: Callable[[str], None]) -> Iterator[Engine]:
    """An engine at work; `make_tables` gets the dsn of each node that must have the tables before it starts."""
    engine = _ENGINES[name](servers, databases)
    for dsn in (databases.leader, *(databases.followers if engine.needs_tables else ())):
        make_tables(dsn)
    try:
        engine.start()
        yield engine
    finally:
        engine.close()
