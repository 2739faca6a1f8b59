"""Memory of the host: used again for batches, and given back to the system between runs."""

from __future__ import annotations

import ctypes
import weakref

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

MOST_KEPT = 8
"""Arrays that wait to be used again, at most."""


def return_free_memory() -> None:
    """Give the memory that Python and torch have freed back to the system, where the C library can (glibc on Linux).

    glibc keeps what was freed, for each thread that has ever asked for memory apart: a process that trains every run in
    a new thread grows by a run's memory with nearly every run. It takes some hundredths of a second.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library; TypeError: Windows names each library
        return
    trim(0)


class ReusedMemory:
    """Hands out float32 tensors whose memory comes back when the last tensor, view or graph that holds it is gone.

    Fresh memory of a batch's size costs the kernel as much time for its pages as the resize of the images takes
    (`benchmarks/input.py`). A tensor is made on a view of an array of this pool; torch keeps that view alive as long as
    the tensor's storage, and the end of the view gives the array back.
    """

    def __init__(self) -> None:
        self._free: list[npt.NDArray[np.float32]] = []

    def take(self, shape: tuple[int, ...]) -> Tensor:
        """A float32 tensor of `shape` with arbitrary content."""
        memory = self._matching(shape)
        if memory is None:
            memory = np.empty(shape, dtype=np.float32)
        lease = memory.view()
        weakref.finalize(lease, self._give_back, memory).atexit = False
        return torch.from_numpy(lease)

    def _matching(self, shape: tuple[int, ...]) -> npt.NDArray[np.float32] | None:
        for index, memory in enumerate(self._free):
            if memory.shape == shape:
                return self._free.pop(index)
        return None

    def _give_back(self, memory: npt.NDArray[np.float32]) -> None:
        if len(self._free) < MOST_KEPT:
            self._free.append(memory)
