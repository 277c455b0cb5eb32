"""Several workers do the parts of a copy: each by itself, each again after its connection was lost.

The workers are threads, as nearly all of the work is done by the two servers and by libpq. What they say reaches the
caller through a queue, so that whoever shows it lives in one thread.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

import structlog

from cdc.copy_ports import CopyWorker
from cdc.errors import RetryableError
from cdc.retry import Backoff

log = structlog.get_logger(__name__)

PATIENCE_SECONDS = 600.0
"""How long one part is tried again: a server that starts anew after a crash needs minutes, and hours of copying are at
stake."""
_LOOK_SECONDS = 5.0
_END_SECONDS = 5.0

Task = TypeVar("Task")


@dataclass(frozen=True, slots=True)
class Done(Generic[Task]):
    """A task is done for good; `rows` of it were copied."""

    task: Task
    rows: int


@dataclass(frozen=True, slots=True)
class Moved(Generic[Task]):
    """A task that is being done has come so far, counted from its beginning."""

    task: Task
    rows: int
    bytes: int


@dataclass(frozen=True, slots=True)
class _Interrupted:
    error: RetryableError


@dataclass(frozen=True, slots=True)
class _Ended:
    """A worker's thread ends, well or with this error."""

    error: BaseException | None


class _StoppedError(Exception):
    """Another worker has failed: this one leaves what it does undone."""


Work = Callable[[CopyWorker, Task, Callable[[int, int], None]], int]


class ParallelCopy(Generic[Task]):
    """`jobs` workers at most, of `open_worker`; `check` raises when there is no sense in trying again."""

    def __init__(
        self, jobs: int, open_worker: Callable[[], CopyWorker], check: Callable[[], None] = lambda: None
    ) -> None:
        self._jobs = jobs
        self._open_worker = open_worker
        self._check = check
        self._events: SimpleQueue[Done[Task] | Moved[Task] | _Interrupted | _Ended] = SimpleQueue()
        self._stop = threading.Event()

    def run(self, tasks: Sequence[Task], work: Work[Task], hear: Callable[[Done[Task] | Moved[Task]], None]) -> None:
        """All of `tasks`. The first error that no other try can mend ends all of it, and is raised.

        `hear` is called in this thread.
        """
        todo = deque(tasks)
        threads = [
            threading.Thread(target=self._run_worker, args=(todo, work), name=f"copy-{number}", daemon=True)
            for number in range(min(self._jobs, len(tasks)))
        ]
        for thread in threads:
            thread.start()
        try:
            self._listen(len(threads), hear)
        finally:
            self._stop.set()
            deadline = time.monotonic() + _END_SECONDS
            for thread in threads:
                thread.join(max(0.0, deadline - time.monotonic()))

    def _listen(self, running: int, hear: Callable[[Done[Task] | Moved[Task]], None]) -> None:
        looked_at = time.monotonic()
        while running:
            try:
                event = self._events.get(timeout=_LOOK_SECONDS)
            except Empty:
                event = None
            if isinstance(event, _Interrupted):
                log.warning("interrupted, trying again", error=str(event.error))
            if isinstance(event, _Interrupted) or time.monotonic() - looked_at >= _LOOK_SECONDS:
                self._check()
                looked_at = time.monotonic()
            if isinstance(event, _Ended):
                if event.error is not None:
                    self._check()  # why it is of no use says more than who noticed first
                    raise event.error
                running -= 1
            elif isinstance(event, Done | Moved):
                hear(event)

    def _run_worker(self, todo: deque[Task], work: Work[Task]) -> None:
        worker: CopyWorker | None = None
        ended = _Ended(None)
        try:
            while not self._stop.is_set():
                try:
                    task = todo.popleft()
                except IndexError:
                    break
                worker = self._do(worker, task, work)
        except _StoppedError:
            pass
        except BaseException as error:
            ended = _Ended(error)
        finally:
            if worker is not None:
                worker.close()
            self._events.put(ended)

    def _do(self, worker: CopyWorker | None, task: Task, work: Work[Task]) -> CopyWorker:
        """The worker that has done it: this one, or the one that tried again."""
        backoff = Backoff()
        deadline = time.monotonic() + PATIENCE_SECONDS

        def progress(rows: int, size: int) -> None:
            if self._stop.is_set():
                raise _StoppedError
            self._events.put(Moved(task, rows, size))

        while True:
            try:
                worker = worker or self._open_worker()
                rows = work(worker, task, progress)
            except RetryableError as error:
                if worker is not None:
                    worker.close()
                    worker = None
                if self._stop.is_set():
                    raise _StoppedError from None
                if time.monotonic() > deadline:
                    raise
                self._events.put(_Interrupted(error))
                self._stop.wait(backoff.next_wait())
            else:
                self._events.put(Done(task, rows))
                return worker
