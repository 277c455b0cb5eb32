"""Values of sequences, which logical decoding does not tell: they travel in a logical message now and then."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping

import orjson

from cdc.events.table import TableId

SEQUENCES_PREFIX = "cdc.sequences"
"""Prefix of the logical message; its content is a JSON array of [schema, name, last value]."""


def sequences_message(values: Mapping[TableId, int]) -> bytes:
    """The content of the message."""
    return orjson.dumps([[*name, value] for name, value in values.items()])


def sequence_values(content: str) -> dict[TableId, int]:
    """From the content as the log carries it (base64). Raises ValueError or TypeError when it is none of ours."""
    found = orjson.loads(b64decode(content, validate=True))
    return {TableId(str(schema), str(name)): int(value) for schema, name, value in found}
