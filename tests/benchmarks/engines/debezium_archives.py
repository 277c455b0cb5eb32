"""Kafka Connect and Debezium's connectors, fetched by Maven once."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from cdc.local.kafka_choice import java_for_kafka
from cdc.local.maven import Artifacts, by_maven, pom_property

_POM = Path(__file__).with_name("debezium-pom.xml")


class Archives(NamedTuple):
    """The jars of Kafka Connect, and the folder with one folder a connector."""

    libs: Path
    plugins: Path
    description: str


def archives() -> Archives:
    debezium, connect = (pom_property(_POM, f"{name}.version") for name in ("debezium", "connect"))
    what = f"Debezium {debezium} on Kafka Connect {connect}"
    wanted = Artifacts(what, _POM, Path(f"debezium-{debezium}", f"connect-{connect}"), _goals, sign="plugins/*jdbc*")
    kept = by_maven(java_for_kafka(), wanted)
    return Archives(kept / "libs", kept / "plugins", what)


def _goals(into: Path) -> list[list[str]]:
    return [
        ["dependency:copy-dependencies", "-DexcludeClassifiers=plugin", f"-DoutputDirectory={into / 'libs'}"],
        ["dependency:unpack-dependencies", "-DincludeClassifiers=plugin", f"-DoutputDirectory={into / 'plugins'}"],
    ]
