"""What was freed goes back to the system, so that a daemon at rest is as small as after its start.

glibc keeps it: in an arena for each thread, up to eight a core, and below whatever is still in use in it. librdkafka
has some threads for each client that we make, and what one of them frees another one allocated. After a while without
Kafka and a backlog capture held 150 MB so, with 11 MB in use. Fewer arenas (M_ARENA_MAX) would hold less; with two of
them a transaction of one row took more CPU, because threads wait for each other. A C library without the call needs
none.
"""

from __future__ import annotations

import ctypes

GIVE_BACK_SECONDS = 5.0
"""How often at most a daemon that has nothing to do gives back."""
_libc = ctypes.CDLL(None)


def give_back() -> None:
    """Takes some milliseconds for 100 MB: call it where nothing is urgent."""
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(ctypes.c_size_t(0))
