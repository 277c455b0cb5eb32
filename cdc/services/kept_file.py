"""A file with rows that no node will hold: what `cdc skip` leaves out, what only a node has that rejoins."""

from __future__ import annotations

import filecmp
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from cdc.errors import CheckError

_REMEDY = "name another one by --file"


@contextmanager
def kept(file: Path) -> Iterator[BinaryIO]:
    """What the block writes is in `file`, durably, once it has ended; a block that fails or writes nothing leaves none.

    A file of that name stays, and is right when it holds the same. Raises CheckError when it holds something else, and
    when the file cannot be written.
    """
    partial = file.with_name(file.name + ".partial")
    try:
        partial.unlink(missing_ok=True)  # of a run that was killed
        out = _created(partial)
        try:
            with out:
                yield out
                out.flush()
                os.fsync(out.fileno())
                filled = out.tell() > 0
            if filled:
                _name(partial, file)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise CheckError(f"the file cannot be written: {error.strerror}", _REMEDY, str(file)) from error


def _created(file: Path) -> BinaryIO:
    """Only for its owner: it holds the values of rows. Raises FileExistsError."""
    return os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def _name(partial: Path, file: Path) -> None:
    """The name is taken first, as a rename replaces a file that somebody else made meanwhile."""
    try:
        _created(file).close()
    except FileExistsError as error:
        if not filecmp.cmp(partial, file, shallow=False):
            raise CheckError("the file exists and holds something else", _REMEDY, str(file)) from error
    else:
        partial.replace(file)
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
