"""Apache Kafka's jars: from KAFKA_HOME, or by Maven into a cache of the user, once."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cdc.local.errors import LocalServerError
from cdc.local.java import Java

_HERE = Path(__file__).resolve().parent
# In a checkout, and in an installed package.
_POMS = (_HERE.parents[1] / "docker" / "kafka" / "pom.xml", _HERE / "kafka-pom.xml")
_POM_NAMESPACE = {"m": "http://maven.apache.org/POM/4.0.0"}
_MAVEN_SECONDS = 600.0


def jars_of_kafka_home() -> Path | None:
    """`$KAFKA_HOME/libs`; None when the variable is not set, LocalServerError when it is wrong."""
    home = os.environ.get("KAFKA_HOME")
    if not home:
        return None
    libs = Path(home) / "libs"
    if not any(libs.glob("kafka_2.1*.jar")):
        raise LocalServerError(
            f"KAFKA_HOME is {home}, which holds no libs/kafka_2.1*.jar", "set it to an unpacked Kafka, or unset it"
        )
    return libs


def jars_by_maven(java: Java) -> Path:
    """The folder of jars in the user's cache, filled by Maven if this is the first time.

    Callers at the same time wait for the one that fetches. LocalServerError when there is no Maven,
    or it fails.
    """
    pom = _pom()
    version = kafka_version(pom)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cdc"
    libs = cache / f"kafka-{version}" / "libs"
    if libs.exists():
        return libs
    maven = shutil.which("mvn")
    if maven is None:
        raise LocalServerError("Maven is not installed", "install the package maven")
    try:
        libs.parent.mkdir(parents=True, exist_ok=True)
        with _locked(cache / f"kafka-{version}.lock"):
            if not libs.exists():
                say(f"fetching Apache Kafka {version} with Maven into {libs} (45 MB, once)")
                _fetch(maven, java, pom, libs)
    except OSError as error:
        raise LocalServerError(f"Kafka cannot be kept in {cache}: {error}", "set XDG_CACHE_HOME") from error
    return libs


def kafka_version(pom: Path | None = None) -> str:
    """The version of Kafka that the pom names."""
    pom = pom or _pom()
    version = ElementTree.parse(pom).findtext("m:properties/m:kafka.version", None, _POM_NAMESPACE)  # noqa: S314 - ours
    if version is None:
        raise LocalServerError("the property kafka.version is missing", where=str(pom))
    return version


def _pom() -> Path:
    for pom in _POMS:
        if pom.exists():
            return pom
    raise LocalServerError("the file docker/kafka/pom.xml is missing", "run from a checkout of the project")


def _fetch(maven: str, java: Java, pom: Path, libs: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=libs.parent) as folder:
        # A copy, because Maven may write beside it and the checkout may be read-only.
        shutil.copy(pom, Path(folder, "pom.xml"))
        fetched = Path(folder, "libs")
        command: list[str | Path] = [maven, "-B", "-q", "-f", Path(folder, "pom.xml"), "dependency:copy-dependencies"]
        answer = _run_maven([*command, f"-DoutputDirectory={fetched}"], java)
        if answer.returncode != 0 or not any(fetched.glob("kafka_2.1*.jar")):
            said = next((line for line in answer.stdout.splitlines() if "ERROR" in line), answer.stdout[-300:])
            raise LocalServerError(f"Maven could not fetch Kafka: {said}", "look at the network, then again")
        fetched.rename(libs)


def _run_maven(command: list[str | Path], java: Java) -> subprocess.CompletedProcess[str]:
    environment = {"JAVA_HOME": str(java.home), **os.environ}
    try:
        return subprocess.run(
            command,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_MAVEN_SECONDS,
            env=environment,
        )
    except subprocess.TimeoutExpired as error:
        raise LocalServerError(f"Maven did not end within {_MAVEN_SECONDS:g} s", "look at the network") from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say("waiting for another process that fetches Apache Kafka")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def say(line: str) -> None:
    print(f"cdc: {line}", file=sys.stderr, flush=True)
