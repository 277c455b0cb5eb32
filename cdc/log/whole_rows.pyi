class WholeRows:
    def __init__(
        self,
        names: tuple[str, ...],
        key_columns: tuple[str, ...],
        key_head: bytes,
        insert_head: bytes,
        update_head: bytes,
        tail: bytes,
    ) -> None: ...
    def encode(
        self,
        frames: list[bytes],
        at: int,
        times: bytes,
        chain: bytes,
        seq: int,
        records: list[tuple[bytes | None, bytes]],
    ) -> int: ...
