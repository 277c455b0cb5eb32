"""A port that was given to one process is given to no other, also while the server that has it is down."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cdc.local import ports
from cdc.local.errors import LocalServerError

TAKE_ONE = """
import sys
from cdc.local import ports
ports._FIRST, ports._LAST = map(int, sys.argv[1:])
print(ports.free_port(), flush=True)
sys.stdin.read()
"""


def test_a_port_is_given_to_one_process_until_it_ends(monkeypatch: pytest.MonkeyPatch):
    # Given two ports, of which nobody listens on either, and a process that was given one.
    first = ports.free_port()
    ports._given.pop(first).close()
    monkeypatch.setattr(ports, "_FIRST", first)
    monkeypatch.setattr(ports, "_LAST", first + 1)
    arguments = [sys.executable, "-c", TAKE_ONE, str(first), str(first + 1)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        theirs = int(other.stdout.readline())
        # Then there is one for us, and no more.
        assert {ports.free_port(), theirs} == {first, first + 1}
        with pytest.raises(LocalServerError, match="no free port"):
            ports.free_port()
        other.communicate()
    # And theirs once they have ended.
    assert ports.free_port() == theirs
