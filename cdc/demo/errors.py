"""How a demo can end before its report."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from cdc.local import LocalServerError


class DemoError(LocalServerError):
    """The demo could not be carried through; says which part failed, never values of rows."""


class Interrupted(Exception):
    """Somebody asked it to stop. No error: everything is cleaned up on the way out."""


def database_trouble(error: psycopg.Error, where: str) -> DemoError:
    """psycopg's own text may quote rows; its class and SQLSTATE do not."""
    return DemoError(
        f"unexpected database error {type(error).__name__} ({error.sqlstate or 'no SQLSTATE'})", where=where
    )


@contextmanager
def asking(where: str) -> Iterator[None]:
    """psycopg's errors leave as the demo's own, with `where` as the place."""
    try:
        yield
    except psycopg.Error as error:
        raise database_trouble(error, where) from error
