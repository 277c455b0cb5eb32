from collections.abc import Iterable
from typing import Any

class RunLines:
    def __init__(
        self,
        head: bytes,
        middle: tuple[bytes, bytes],
        end: tuple[bytes, bytes],
        names: tuple[str, ...],
        key: tuple[str, ...],
    ) -> None: ...
    def read(self, values: Iterable[bytes | None], seq: int, lines: list[bytes], keys: list[Any]) -> int: ...
