"""What Maven fetches, into a cache of the user, once."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cdc.local.errors import LocalServerError
from cdc.local.java import Java

_POM_NAMESPACE = {"m": "http://maven.apache.org/POM/4.0.0"}
_MAVEN_SECONDS = 600.0


@dataclass(frozen=True)
class Artifacts:
    """What a pom names: what it is to people, its folder in the cache, the goals that fill a folder (each with its
    options), and a file that is there when all is."""

    what: str
    pom: Path
    folder: Path
    goals: Callable[[Path], Sequence[Sequence[str]]]
    sign: str


def pom_property(pom: Path, name: str) -> str:
    """The value of a property of the pom."""
    value = ElementTree.parse(pom).findtext(f"m:properties/m:{name}", None, _POM_NAMESPACE)  # noqa: S314 - ours
    if value is None:
        raise LocalServerError(f"the property {name} is missing", where=str(pom))
    return value


def by_maven(java: Java, wanted: Artifacts) -> Path:
    """The folder in the user's cache, filled by Maven if this is the first time.

    Callers at the same time wait for the one that fetches. LocalServerError when there is no Maven,
    or it fails.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cdc"
    kept = cache / wanted.folder
    if kept.exists():
        return kept
    maven = shutil.which("mvn")
    if maven is None:
        raise LocalServerError("Maven is not installed", "install the package maven")
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with _locked(cache / f"{wanted.folder.parts[0]}.lock", wanted.what):
            if not kept.exists():
                say(f"fetching {wanted.what} with Maven into {kept} (once)")
                _fetch(maven, java, wanted, kept)
    except OSError as error:
        raise LocalServerError(f"{wanted.what} cannot be kept in {cache}: {error}", "set XDG_CACHE_HOME") from error
    return kept


def _fetch(maven: str, java: Java, wanted: Artifacts, kept: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=kept.parent) as folder:
        # A copy, because Maven may write beside it and the checkout may be read-only.
        pom = shutil.copy(wanted.pom, Path(folder, "pom.xml"))
        fetched = Path(folder, "fetched")
        for goal in wanted.goals(fetched):
            answer = _run_maven([maven, "-B", "-q", "-f", pom, *goal], java)
            if answer.returncode != 0:
                said = next((line for line in answer.stdout.splitlines() if "ERROR" in line), answer.stdout[-300:])
                what = f"Maven could not fetch {wanted.what}: {said}"
                raise LocalServerError(what, "look at the network, then again")
        if not any(fetched.glob(wanted.sign)):
            raise LocalServerError(f"Maven fetched {wanted.what} without {wanted.sign}", where=str(wanted.pom))
        fetched.rename(kept)


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
def _locked(path: Path, what: str) -> Iterator[None]:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say(f"waiting for another process that fetches {what}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def say(line: str) -> None:
    print(f"cdc: {line}", file=sys.stderr, flush=True)
