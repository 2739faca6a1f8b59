"""Two processes of one process group, forked from a server that has imported everything once: an import takes seconds."""

import multiprocessing
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

RANKS = 2
_IMPORTED = ["torch._dynamo", "faiss", "pytest", "hypothesis", "tests.helpers.training"]
"""What most of such tests need; torch imports the first of them for an optimizer."""


def on_two_ranks(work: Callable[..., Any], folder: Path, *arguments: Any) -> list[Any]:
    """What ``work(rank, *arguments)`` returns in each of two processes that form a gloo group."""
    multiprocessing.set_forkserver_preload(_IMPORTED)
    torch.multiprocessing.start_processes(
        partial(_on_rank, work, folder, arguments), nprocs=RANKS, start_method="forkserver"
    )
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(RANKS)]


def _on_rank(work: Callable[..., Any], folder: Path, arguments: tuple[Any, ...], rank: int) -> None:
    torch.set_num_threads(1)
    address = f"file://{folder / 'rendezvous'}"
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=RANKS)
    torch.save(work(rank, *arguments), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()
