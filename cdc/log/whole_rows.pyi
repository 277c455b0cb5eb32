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

class WholeTransactions:
    commit_lsn: int
    end_lsn: int
    transactions: int
    def __init__(self, epoch: int, ending: bytes) -> None: ...
    def add(self, oid: int, rows: WholeRows) -> None: ...
    def forget(self, oid: int) -> None: ...
    def forget_all(self) -> None: ...
    def encode(
        self,
        frames: list[bytes],
        at: int,
        commit_lsn: int,
        end_lsn: int,
        now_us: int,
        records: list[tuple[bytes | None, bytes]],
    ) -> int: ...
