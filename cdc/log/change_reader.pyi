from collections.abc import Sequence
from typing import Any

class ChangeReader:
    commit_lsn: int
    open_commit_lsn: int
    seq: int
    end_lsn: int
    committed_at_us: int
    complete: int
    size: int
    complete_size: int
    def learn(self, head: bytes, op: str, fingerprint: str, names: tuple[str, ...], key: tuple[str, ...]) -> None: ...
    def forget(self, head: bytes) -> None: ...
    def read(
        self,
        records: Sequence[Any],
        at: int,
        epoch: int,
        commit_lsn: int,
        open_commit_lsn: int,
        seq: int,
        leader: str,
    ) -> int: ...
    def rows(self, complete: bool) -> list[tuple[str, list[str], list[Any], list[bytes]]]: ...
