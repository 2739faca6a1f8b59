"""Settings that hold for every test."""

import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

os.environ.setdefault("OMP_NUM_THREADS", "1")
# One cache for all test processes, out of the user's own.
os.environ.setdefault("CTXTUNE_CACHE", str(Path(tempfile.gettempdir()) / "ctxtune-test-cache"))
# Tests that give runs a GPU have one that Ray only counts.
os.environ.setdefault("CTXTUNE_LOGICAL_GPUS", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def repository() -> Path:
    return Path(__file__).resolve().parents[1]


@pytest.fixture
def refusing_port() -> Iterator[int]:
    """A port of the loopback that refuses connections: it is held, so that nobody begins to listen on it meanwhile."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield int(holder.getsockname()[1])
