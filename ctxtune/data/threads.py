"""Work on many images in threads.

Threads, not processes: decoding and resizing release Python's lock, nothing is copied to a worker, and a process
that already uses a GPU is never forked.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def processors() -> int:
    """The number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_threads(work: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """`work` on every item by `workers` threads, results in order, a bounded number of items ahead. 0: no thread."""
    if workers <= 0:
        yield from map(work, items)
        return
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="images") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) >= 4 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


class SpreadOver:
    """A pool that is kept for many batches: position i of a batch is worked on by thread i % workers; 0: by the caller's.

    One task for each thread and batch, where `Executor.map` would make one for each image.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="images") if workers else None

    def each(self, work: Callable[[int], None], count: int) -> None:
        """Return when all is done; what the work raises is raised."""
        if self._pool is None:
            for position in range(count):
                work(position)
            return

        def share(first: int) -> None:
            for position in range(first, count, self._workers):
                work(position)

        for future in [self._pool.submit(share, first) for first in range(min(self._workers, count))]:
            future.result()

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
