"""HOT PATH: the messages of a COPY, as many as have arrived.

psycopg hands on each with three objects around it, which takes eight times as long as the message itself. Compiled
(`copy_reader.pyx`), the loop calls the libpq that psycopg is linked with.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any, NamedTuple

from psycopg.pq import PGconn, abc

from cdc.log.compiled import is_newest

try:
    from connectors.postgres import copy_reader

    _compiled = copy_reader.read if is_newest(copy_reader.__file__) else None
except ImportError:
    _compiled = None


class _Libpq(NamedTuple):
    """The addresses of two of its functions."""

    get_copy_data: int
    free_mem: int


class CopyData:
    """What one connection copies to us. Not thread-safe."""

    def __init__(self, connection: abc.PGconn) -> None:
        self._connection = connection
        self._libpq = _find_libpq() if _compiled else None

    def take(self, messages: list[bytes], most_bytes: int, most: int = sys.maxsize) -> tuple[int, int]:
        """Append the messages that have arrived, until there are about `most_bytes` or `most`.

        Returns a positive number when that ended it, 0 when there is no more at the moment, -1 after the final message;
        and how many bytes were appended. Raises psycopg.OperationalError.
        """
        # None when it is closed. Every implementation of psycopg's has it, its protocol does not name it.
        pointer: int | None = getattr(self._connection, "pgconn_ptr", None)
        if _compiled is None or self._libpq is None or not pointer:
            return self._take_each(messages, most_bytes, most)
        size, taken = _compiled(pointer, self._libpq.get_copy_data, self._libpq.free_mem, messages, most_bytes, most)
        # An error is told again by libpq, and then in psycopg's words.
        return (size, taken) if size > -2 else self._take_each(messages, 1, 1)

    def _take_each(self, messages: list[bytes], most_bytes: int, most: int) -> tuple[int, int]:
        get = self._connection.get_copy_data
        size, taken = 1, 0
        while taken < most_bytes and most > 0:
            size, data = get(1)
            if size <= 0:
                break
            messages.append(bytes(data))
            taken += size
            most -= 1
        return size, taken


@cache
def _find_libpq() -> _Libpq | None:
    """As seen from psycopg's compiled module, so that it is the libpq that this one is linked with. None for psycopg's
    implementation in Python."""
    try:
        seen = ctypes.CDLL(sys.modules[PGconn.__module__].__file__)
        return _Libpq(_address(seen.PQgetCopyData), _address(seen.PQfreemem))
    except (OSError, AttributeError):
        return None


def _address(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0
