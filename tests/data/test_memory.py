"""Memory of the host is given back to the system."""

import ctypes
import gc
import sys
import threading
from pathlib import Path

import pytest
import torch

from ctxtune.data.memory import return_free_memory

MIB = 1 << 20


def resident() -> int:
    """Bytes of this process that are in memory and belong to no file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="glibc on Linux"
)
def test_what_the_threads_of_earlier_runs_have_freed_goes_back_to_the_system() -> None:
    """Small pieces that stay keep the C library from giving back the large ones between them by itself."""
    gc.collect()
    return_free_memory()
    before = resident()
    kept: list[torch.Tensor] = []

    def run() -> None:
        pieces = [torch.ones(MIB // 64) for _ in range(1600)]  # 64 KiB each: 100 MiB
        kept.append(pieces[-1])

    for _ in range(3):
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    return_free_memory()
    assert resident() - before < 20 * MIB


def test_a_system_without_such_a_call_costs_nothing_but_the_saving(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: object) -> ctypes.CDLL:
        raise OSError("no such library")

    monkeypatch.setattr(ctypes, "CDLL", none)
    return_free_memory()
