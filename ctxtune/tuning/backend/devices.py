"""Where a run computes: on the GPU that Ray has given it, or on the CPU."""

import os
import platform

import torch

from ctxtune.errors import RunFailed
from ctxtune.tuning.record.trial_report import NO_GPU

LOGICAL_GPUS = "CTXTUNE_LOGICAL_GPUS"
"""Set where Ray only counts GPUs, as in our tests: runs that were given one compute on the CPU."""


def run_device(gpus: float) -> str:
    """The device of a run that has been given so many GPUs: "cuda" or "cpu".

    Raises:
        RunFailed: it was given a GPU that PyTorch cannot use. On the CPU it would take days, and be billed as a GPU.
    """
    if not gpus:
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    if os.environ.get(LOGICAL_GPUS):
        return "cpu"
    built = torch.version.cuda
    why = f"is there a driver for CUDA {built}, new enough?" if built else "it was built without CUDA"
    raise RunFailed(
        NO_GPU, f"Ray counts a GPU on {platform.node()}, but PyTorch {torch.__version__} can use none there: {why}"
    )


def leave_broken_process(device: str) -> None:
    """End a process in which an earlier run has left a CUDA error: it stays, and would fail every run that comes after.

    Ray then starts the run in a new process, as for any that has died.
    """
    if device != "cuda":
        return
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        os._exit(1)
