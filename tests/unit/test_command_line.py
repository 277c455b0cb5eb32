"""What ends `cdc` from outside of it: one line, or none, and never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys


def run_help(output: int) -> tuple[int, str]:
    """Exit code and stderr of a command that only writes."""
    done = subprocess.run(
        [sys.executable, "-m", "cdc", "--help"], stdout=output, stderr=subprocess.PIPE, text=True, check=False
    )
    return done.returncode, done.stderr


def test_an_error_of_the_operating_system_is_one_line():
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        assert run_help(full) == (1, "cdc: unexpected OSError: No space left on device\n")
    finally:
        os.close(full)


def test_a_pipe_that_nobody_reads_any_more_ends_it_quietly():
    reader, writer = os.pipe()
    os.close(reader)
    try:
        _, said = run_help(writer)
    finally:
        os.close(writer)
    assert said == ""
