"""What a result depends on besides its settings: code version, library versions, hardware. Never names or paths."""

import os
import platform
import re
import subprocess
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from ctxtune.version import __version__

_LIBRARIES = (
    "torch",
    "torchvision",
    "pytorch-metric-learning",
    "numpy",
    "scipy",
    "ray",
    "optuna",
    "mlflow",
    "faiss-cpu",
    "faiss-gpu",
)


TRACKING_FORMAT = "1"
"""Of what is written into MLflow: within a format names of metrics, params and tags are added, never renamed."""


def run_environment() -> dict[str, str]:
    """Tags that tell under what a run was made: git commit and dirtiness, versions, hardware.

    Of the machine on which it is called; takes some 50 ms. Holds no host or user name, path, or environment variable.
    Keys: `ctxtune.format`, `git.commit`, `git.dirty` (where the code is in a repository), `version.*`, `hardware.*`.
    """
    return {"ctxtune.format": TRACKING_FORMAT} | _git() | _versions() | _hardware()


def _git() -> dict[str, str]:
    package = Path(__file__).resolve().parents[1]
    # A repository around an installed package (a virtual environment inside a project) says nothing about our code.
    tracked = _output(["git", "-C", str(package), "ls-files", "--error-unmatch", "__init__.py"])
    folder = package if tracked is not None else Path.cwd()
    commit = _output(["git", "-C", str(folder), "rev-parse", "HEAD"])
    if commit is None:
        return {}
    changes = _output(["git", "-C", str(folder), "status", "--porcelain", "--untracked-files=no"])
    dirty = "unknown" if changes is None else str(bool(changes)).lower()
    return {"git.commit": commit, "git.dirty": dirty, "mlflow.source.git.commit": commit}


def _versions() -> dict[str, str]:
    versions = {"version.ctxtune": __version__, "version.python": platform.python_version()}
    for library in _LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            versions[f"version.{library}"] = metadata.version(library)
    return versions


def _hardware() -> dict[str, str]:
    facts = {
        "hardware.platform": f"{platform.system()} {platform.machine()}",
        "hardware.cpu": _processor(),
        "hardware.cpus": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
    }
    with suppress(OSError, ValueError):
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        facts["hardware.memory_gib"] = f"{memory / 2**30:.0f}"
    listing = _output(["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"])
    gpus = [[part.strip() for part in line.split(",")] for line in (listing or "").splitlines() if line.count(",") == 2]
    facts["hardware.gpus"] = str(len(gpus))
    if gpus:
        name, memory_mib, driver = gpus[0]
        facts |= {"hardware.gpu": name, "hardware.gpu_memory_mib": memory_mib, "hardware.gpu_driver": driver}
    return facts


def _processor() -> str:
    with suppress(OSError):
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        if found:
            return found[1].strip()
    return platform.processor() or platform.machine()


def _output(command: list[str]) -> str | None:
    """What a command prints, None if it is missing, fails or takes more than 5 s."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
