"""Apache Kafka's jars: from KAFKA_HOME, or by Maven into a cache of the user, once."""

from __future__ import annotations

import os
from pathlib import Path

from cdc.local.errors import LocalServerError
from cdc.local.java import Java
from cdc.local.maven import Artifacts, by_maven, pom_property

_HERE = Path(__file__).resolve().parent
# In a checkout, and in an installed package.
_POMS = (_HERE.parents[1] / "docker" / "kafka" / "pom.xml", _HERE / "kafka-pom.xml")
_BROKER_JAR = "kafka_2.1*.jar"


def jars_of_kafka_home() -> Path | None:
    """`$KAFKA_HOME/libs`; None when the variable is not set, LocalServerError when it is wrong."""
    home = os.environ.get("KAFKA_HOME")
    if not home:
        return None
    libs = Path(home) / "libs"
    if not any(libs.glob(_BROKER_JAR)):
        raise LocalServerError(
            f"KAFKA_HOME is {home}, which holds no libs/{_BROKER_JAR}", "set it to an unpacked Kafka, or unset it"
        )
    return libs


def jars_by_maven(java: Java) -> Path:
    """The folder of jars in the user's cache, filled by Maven if this is the first time (45 MB)."""
    pom = _pom()
    version = kafka_version(pom)
    wanted = Artifacts(
        f"Apache Kafka {version}",
        pom,
        Path(f"kafka-{version}", "libs"),
        lambda into: [["dependency:copy-dependencies", f"-DoutputDirectory={into}"]],
        sign=_BROKER_JAR,
    )
    return by_maven(java, wanted)


def kafka_version(pom: Path | None = None) -> str:
    """The version of Kafka that the pom names."""
    return pom_property(pom or _pom(), "kafka.version")


def _pom() -> Path:
    for pom in _POMS:
        if pom.exists():
            return pom
    raise LocalServerError("the file docker/kafka/pom.xml is missing", "run from a checkout of the project")
