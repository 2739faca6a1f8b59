"""Work shared among the threads that torch may use.

Blocks of similarities are worked on by one thread each. Letting every operation use all threads instead means to
wait for all of them several hundred times a block: that is slower, and very much so where other processes keep the
processors busy.
"""

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

import torch

Item = TypeVar("Item")
MOST_WORKERS = 32
# Groups of items under way at a time; more than one, so that no thread waits for the last item of a group.
GROUPS = 2


class Workers:
    """As many threads as torch would use, for work on the CPU; on a GPU, or with one thread, the caller's alone.

    A context manager: inside, torch's own operations in the calling thread use one thread, outside as before.
    """

    def __init__(self, device: torch.device, *, alone: bool = False) -> None:
        """With `alone` the caller's thread does all."""
        self._threads = torch.get_num_threads()
        self._number = min(self._threads, MOST_WORKERS) if device.type == "cpu" and not alone else 1
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> "Workers":
        if self._number > 1:
            self._pool = ThreadPoolExecutor(self._number, "ctxtune-retrieval", initializer=_prepare_thread)
            torch.set_num_threads(1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._pool is not None:
            torch.set_num_threads(self._threads)
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def each(self, function: Callable[[Item], None], items: Iterable[Item]) -> None:
        """Call the function for every item; calls may run at the same time, in any order."""
        self.each_group(function, (([item], None) for item in items), groups=GROUPS * self._number)

    def each_group(
        self,
        function: Callable[[Item], None],
        groups_of_items: Iterable[tuple[list[Item], Callable[[], None] | None]],
        groups: int = GROUPS,
    ) -> None:
        """The same for groups of items; when all of a group are done, the callable that came with it is called."""
        waiting: deque[tuple[list[Future[None]], Callable[[], None] | None]] = deque()
        for items, finish in groups_of_items:
            if self._pool is None:
                for item in items:
                    function(item)
                _call(finish)
                continue
            waiting.append(([self._pool.submit(function, item) for item in items], finish))
            if len(waiting) >= groups:
                _await(*waiting.popleft())
        while waiting:
            _await(*waiting.popleft())


def _prepare_thread() -> None:
    """These are settings of the thread, which ends with the pool."""
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)


def _await(futures: list["Future[None]"], finish: Callable[[], None] | None) -> None:
    for future in futures:
        future.result()
    _call(finish)


def _call(finish: Callable[[], None] | None) -> None:
    if finish is not None:
        finish()
