"""Work ahead in a background thread, so that the next batches are there when the training step wants them."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")
Made = TypeVar("Made")
BATCHES_UNDER_WAY = 3
"""On a GPU the host stays at most so many batches before the device, so that memory for them stays bounded."""


def ahead(work: Callable[[Item], Result], items: Iterable[Item], depth: int) -> Iterator[Result]:
    """`work` on each item in one background thread, at most `depth` results ahead; 0 does it in the caller's.

    What the work raises is raised here, in its place in the order. Closing the iterator ends the thread.
    """
    if depth <= 0:
        yield from map(work, items)
        return
    done: queue.Queue[tuple[bool, object]] = queue.Queue(maxsize=depth)
    stop = threading.Event()

    def put(entry: tuple[bool, object]) -> None:
        while not stop.is_set():
            try:
                done.put(entry, timeout=0.1)
                return
            except queue.Full:
                continue

    def run() -> None:
        try:
            for item in items:
                if stop.is_set():
                    return
                put((True, work(item)))
            put((False, None))
        except BaseException as error:  # noqa: BLE001  # handed over to the consumer
            put((False, error))

    thread = threading.Thread(target=run, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            more, value = done.get()
            if not more:
                if value is not None:
                    raise value  # type: ignore[misc]
                return
            yield value  # type: ignore[misc]
    finally:
        stop.set()
        thread.join()


class DeviceAhead:
    """Work on a device for the next item while the caller's work on the one before goes on there.

    On a GPU it is put on a stream of its own: copies and small kernels run beside the training step, which finds its
    batch there. What was put on the caller's stream before the next item is asked for comes first, so that memory that
    the caller has let go of by then may be used again. Elsewhere the work is done when it is asked for.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: torch.cuda.Stream | None = None

    def each(self, work: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[tuple[Item, Made]]:
        """Each item with what `work`, which must not wait for the device, makes of it, in order."""
        if self._device.type != "cuda":
            for item in items:
                yield item, work(item)
            return
        if self._stream is None:
            self._stream = torch.cuda.Stream(self._device)
        under_way: deque[torch.cuda.Event] = deque()
        waiting: tuple[Item, Made, torch.cuda.Event] | None = None
        for item in items:
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
            with torch.cuda.stream(self._stream):
                made = work(item)
                ready = torch.cuda.Event(blocking=True)
                ready.record()
            under_way.append(ready)
            if len(under_way) > BATCHES_UNDER_WAY:
                under_way.popleft().synchronize()
            if waiting is not None:
                yield self._handed_over(*waiting)
            waiting = item, made, ready
            del made
        if waiting is not None:
            yield self._handed_over(*waiting)

    def _handed_over(self, item: Item, made: Made, ready: torch.cuda.Event) -> tuple[Item, Made]:
        torch.cuda.current_stream(self._device).wait_event(ready)
        return item, made
