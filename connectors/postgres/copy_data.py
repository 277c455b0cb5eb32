"""HOT PATH: the messages of a COPY, as many as have arrived.

psycopg hands on each with three objects around it, which takes eight times as long as the message itself. Compiled
(`copy_reader.pyx`), the loop calls the libpq that psycopg is linked with. Of an encrypted connection libpq takes a
message at a time, so the loop asks it for more until there is nothing.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache, partial
from typing import Any

from psycopg.pq import PGconn, abc

from cdc.log.compiled import is_newest

try:
    from connectors.postgres import copy_reader
except ImportError:
    copy_reader = None  # type: ignore[assignment]


class CopyData:
    """What one connection copies to us. Not thread-safe."""

    def __init__(self, connection: abc.PGconn) -> None:
        self._connection = connection
        self._read = _compiled_read()

    def take(self, messages: list[bytes], most_bytes: int, most: int = sys.maxsize) -> tuple[int, int]:
        """Read from the connection and append the messages that have arrived, until there are about `most_bytes` or
        `most`. Waits for nothing.

        Returns a positive number when that ended it, 0 when there is no more at the moment, -1 after the final message;
        and how many bytes were appended. Raises psycopg.OperationalError.
        """
        # None when it is closed. Every implementation of psycopg's has it, its protocol does not name it.
        pointer: int | None = getattr(self._connection, "pgconn_ptr", None)
        if self._read is None or not pointer:
            return self._take_each(messages, most_bytes, most)
        size, taken = self._read(pointer, messages, most_bytes, most)
        if size > -2:
            return size, taken
        # An error is told again by libpq, and then in psycopg's words.
        answer, more = self._take_each(messages, 1, 1)
        return answer, taken + more

    def _take_each(self, messages: list[bytes], most_bytes: int, most: int) -> tuple[int, int]:
        get = self._connection.get_copy_data
        size, taken, consumed = 1, 0, False
        while taken < most_bytes and most > 0:
            size, data = get(1)
            if size == 0 and not consumed:
                self._connection.consume_input()
                consumed = True
                continue
            if size <= 0:
                break
            consumed = False
            messages.append(bytes(data))
            taken += size
            most -= 1
        return size, taken


@cache
def _compiled_read() -> Callable[[int, list[bytes], int, int], tuple[int, int]] | None:
    """The compiled loop, bound to functions of libpq as seen from psycopg's compiled module, so that it is the libpq
    that this one is linked with. None where nothing was compiled, and for psycopg's implementation in Python."""
    if copy_reader is None or not is_newest(copy_reader.__file__):
        return None
    try:
        seen = ctypes.CDLL(sys.modules[PGconn.__module__].__file__)
        get, free, consume = map(_address, (seen.PQgetCopyData, seen.PQfreemem, seen.PQconsumeInput))
    except (OSError, AttributeError):
        return None
    return partial(copy_reader.read, get, free, consume)


def _address(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0
