"""Named places where a test can stop a process dead. They do nothing unless armed.

Armed by the environment: `CDC_FAILPOINT=NAME` kills this process with SIGKILL the first time the
place is reached, `NAME:N` the N-th time.
"""

from __future__ import annotations

import os
import signal

CAPTURE_PRODUCED = "capture.produced"
"""Records are handed to the Kafka client, none is known to be delivered."""
CAPTURE_DELIVERED = "capture.delivered"
"""Records are in Kafka, the slot is not confirmed."""
CAPTURE_MID_TRANSACTION = "capture.mid_transaction"
"""A part of a transaction is published, the rest is not."""
APPLY_BEFORE_COMMIT = "apply.before_commit"
"""Rows and position are written in the follower's transaction, which is not committed."""
APPLY_AFTER_COMMIT = "apply.after_commit"
"""The follower's transaction is committed, the applier does not know it yet."""
BOOTSTRAP_COPYING = "bootstrap.copying"
"""One part of a table has been copied, others have not."""
BOOTSTRAP_BUILDING = "bootstrap.building"
"""All rows are copied, and one index, constraint or trigger is made."""
BOOTSTRAP_BEFORE_POSITION = "bootstrap.before_position"
"""All rows are copied, the position is not stored."""
RECOPY_BEFORE_EXCHANGE = "recopy.before_exchange"
"""The new rows of some tables stand aside, the old ones are still there."""
PROMOTE_STEP = "promote."
"""With the name of a step of `cdc promote` behind it: that step is done, the next one is not begun."""
SKIP_BEFORE_COMMIT = "skip.before_commit"
"""The events are in the file, the position has not moved."""
SKIP_AFTER_COMMIT = "skip.after_commit"
"""The position has moved and the decision is recorded, the operator does not know it yet."""

_armed, _, _count = os.environ.get("CDC_FAILPOINT", "").partition(":")
_left = int(_count or 1)


def hit(name: str) -> None:
    """Die here if this place is armed and its turn has come."""
    global _left
    if name != _armed:
        return
    _left -= 1
    if _left <= 0:
        os.kill(os.getpid(), signal.SIGKILL)
