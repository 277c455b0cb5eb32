"""Values of sequences, which logical decoding does not tell: they travel in a logical message now and then."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping

import orjson

from cdc.events.table import TableId, is_publishable

_LEAST = -(2**63)
SEQUENCES_PREFIX = "cdc.sequences"
"""Prefix of the logical message; its content is a JSON array of [schema, name, last value]."""


def sequences_message(values: Mapping[TableId, int]) -> bytes:
    """The content of the message."""
    return orjson.dumps([[*name, value] for name, value in values.items()])


def sequence_values(content: str) -> dict[TableId, int]:
    """From the content as the log carries it (base64). Raises ValueError or TypeError when it is none of ours."""
    found = orjson.loads(b64decode(content, validate=True))
    values = {TableId(schema, name): value for schema, name, value in found}
    in_range = all(type(value) is int and _LEAST <= value < -_LEAST for value in values.values())
    if not in_range or not all(map(is_publishable, values)):
        raise ValueError("not values of sequences")
    return values
