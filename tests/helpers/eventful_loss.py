"""The contextual loss, in whose batches things happen: moments that depend on no clock, and on no other process's speed."""

import os
import signal
import time
from pathlib import Path

import torch
from torch import Tensor

from ctxtune.losses import ContextualLoss

FOLDER = "CTXTUNE_TEST_EVENTS"
"""The variable that names the folder of batches counted so far (`batches`) and of the driver's process (`driver`)."""
EVENTS = "CTXTUNE_TEST_EVENTS_AT"
"""The variable that says what happens when: `10:worker,24:driver,60:interrupt,70:stall`, by batches of all runs together."""


class EventfulLoss(torch.nn.Module):
    """Counts batches across processes, and at those named ends the worker or the driver, or waits."""

    def __init__(self) -> None:
        super().__init__()
        self.loss = ContextualLoss()

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss, if this process is still there."""
        happen()
        return self.loss(embeddings, labels)


def happen() -> None:
    """Count this batch, and let happen what is due at it. A count comes once, so that each event does."""
    folder = Path(os.environ[FOLDER])
    descriptor = os.open(folder / "batches", os.O_APPEND | os.O_CREAT | os.O_WRONLY)
    try:
        os.write(descriptor, b".")
        count = os.lseek(descriptor, 0, os.SEEK_CUR)
    finally:
        os.close(descriptor)
    due = dict(event.split(":") for event in os.environ[EVENTS].split(",")).get(str(count))
    if due == "worker":
        os.kill(os.getpid(), signal.SIGKILL)
    elif due == "driver":
        os.kill(driver(folder), signal.SIGKILL)
        time.sleep(3600)  # Ray ends the workers of a driver that is gone
    elif due == "interrupt":
        os.kill(driver(folder), signal.SIGINT)
    elif due == "stall":
        time.sleep(3600)


def driver(folder: Path) -> int:
    """The driver's process, once the test has written it down."""
    while not (file := folder / "driver").exists() or not (text := file.read_text()).endswith("\n"):
        time.sleep(0.01)
    return int(text)
