"""What was freed goes back to the system, so that a daemon at rest is as small as after its start.

glibc keeps it: in an arena for each thread, up to eight a core, and below whatever is still in use in it. librdkafka
has some threads for each client that we make, and what one of them frees another one allocated. After a while without
Kafka and a backlog capture held 150 MB so, with 11 MB in use. Fewer arenas (M_ARENA_MAX) would hold less; with two of
them a transaction of one row took more CPU, because threads wait for each other. A C library without the call needs
none.
"""

from __future__ import annotations

import ctypes
import gc

GIVE_BACK_SECONDS = 5.0
"""How often at most a daemon that has nothing to do gives back."""
_libc = ctypes.CDLL(None)
_M_TRIM_THRESHOLD = -1  # of glibc's malloc.h, with mallopt(3)
_M_MMAP_THRESHOLD = -3
_KEPT_BYTES = 8 * 2**20
_MAPPED_BYTES = 4 * 2**20
"""Larger pieces are the system's again as soon as they are freed."""


def work_for_long() -> None:
    """For a daemon that begins its work."""
    _keep_while_busy()
    _collect_rarely()


def give_back() -> None:
    """Takes some milliseconds for 100 MB: call it where nothing is urgent."""
    gc.collect()
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(ctypes.c_size_t(0))


def _keep_while_busy() -> None:
    """What is freed at the end of an arena stays with the process up to 8 MB each, and no more.

    glibc begins with 128 kB, so that a thread of the Kafka client gave a batch of some hundred kB back and got it anew
    again and again: a fifth of capture's CPU went into pages that the kernel cleared. And it learns from large pieces
    to keep up to 64 MB, which nothing gives back: malloc_trim takes the end of the first arena only.
    """
    if hasattr(_libc, "mallopt"):
        _libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        _libc.mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES)


def _collect_rarely() -> None:
    """What there is stays, and rows are no cycles. A session that has failed may be one, with all that it had under
    way; `give_back` finds it."""
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)
