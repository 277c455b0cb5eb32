"""A guard that cannot look any more, for a reason that nobody knows, says so."""

from __future__ import annotations

from typing import Any, cast

import pytest

from cdc.local.processes import wait_for
from cdc.services import guardian
from cdc.services.guardian import Guardian


class Broken:
    """A leader's database, which fails as no code of ours expects."""

    def check_primary(self) -> None:
        raise OSError("nobody expects this")

    def close(self) -> None:
        pass


def test_a_guard_that_fails_ends_the_session_that_it_guards(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(guardian, "LOOK_SECONDS", 0.01)
    broken = cast(Any, Broken())

    def found() -> bool:
        try:
            guard.check()
        except OSError:
            return True
        return False

    with Guardian(lambda: broken, broken, cast(Any, None), cast(Any, None)) as guard:
        assert wait_for(found, seconds=10)
