"""A stop is heard at once, wherever it comes from."""

import os
import signal
import threading
import time

from cdc.stop import StopToken, stop_on_signals


def test_a_wait_without_a_stop_ends_in_time():
    assert StopToken().wait(0.01) is False


def test_every_waiter_hears_of_a_stop():
    token, heard = StopToken(), []
    waiters = [threading.Thread(target=lambda: heard.append(token.wait(20))) for _ in range(3)]
    for waiter in waiters:
        waiter.start()
    token.set()
    for waiter in waiters:
        waiter.join(10)
    assert heard == [True, True, True]
    assert token.wait(0) is True


def test_a_signal_ends_the_wait_it_comes_in():
    with stop_on_signals() as token:
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
        started = time.monotonic()
        assert token.wait(20) is True
        assert time.monotonic() - started < 10
