"""`python -m ctxtune.doctor`: check this machine and installation, and say what to do for each fault."""

import argparse
import importlib.metadata
import json
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from rich.table import Table
from rich.text import Text

from ctxtune.command_line import OTHER_EXITS, program_name, run_command
from ctxtune.consoles import Console
from ctxtune.errors import CtxtuneError
from ctxtune.terminal import DEFAULT_TRACKING
from ctxtune.version import __version__

NEEDED_FREE_GIB = 5.0
"""On a disk: for results and caches of a small sweep."""
NEEDED_SHARED_GIB = 1.0
WORST = ("well", "warning", "fault")


@dataclass(frozen=True)
class Finding:
    """What one check has found, and what to do about it ("" where all is well)."""

    check: str
    state: Literal["well", "warning", "fault"]
    found: str
    remedy: str = ""


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=program_name("doctor"),
        description="Check Python, PyTorch, GPU and driver, faiss, Ray, the tracking server, disks, data folders and shared "
        "memory, and say what to do for each fault. Nothing is changed.",
        epilog="Exit status: 0 well; 1 usable, with warnings; 2 something does not work; " + OTHER_EXITS + ".",
    )
    parser.add_argument("--quick", action="store_true", help="do not start Ray (seconds)")
    parser.add_argument("--json", action="store_true", help="print JSON, for scripts")
    parser.add_argument(
        "--results", metavar="DIR", default="results", type=Path, help="folder of all results (default: %(default)s)"
    )
    parser.add_argument(
        "--tracking",
        metavar="URI",
        default=os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_TRACKING,
        help=f"MLflow server or database (default: MLFLOW_TRACKING_URI, else {DEFAULT_TRACKING})",
    )
    return parser


def main() -> int:
    """Run the command; the exit status."""
    arguments = build_parser().parse_args()
    console = Console(highlight=False, stderr=arguments.json, markup=False)
    with console.status("looking"):
        findings = [finding for check in _checks(arguments) for finding in _looked(check)]
    if arguments.json:
        sys.stdout.write(json.dumps([asdict(finding) for finding in findings], indent=2) + "\n")
    else:
        _print(console, findings)
    return max(WORST.index(finding.state) for finding in findings)


def _checks(arguments: argparse.Namespace) -> list[Callable[[], Iterator[Finding]]]:
    checks = [
        _python,
        _torch,
        _gpu,
        _faiss,
        lambda: _tracking(arguments.tracking),
        lambda: _disks(arguments.results),
        _data,
    ]
    checks.append(_shared_memory)
    return checks if arguments.quick else [*checks, _ray]


def _looked(check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """What a check finds; one that fails itself is a fault."""
    name = getattr(check, "__name__", "check").strip("_")
    try:
        return list(check())
    except ImportError as error:
        return [Finding(name, "fault", f"cannot import {error.name or error}", "pip install 'ctxtune[sweep,cpu]'")]
    except Exception as error:  # noqa: BLE001  # a broken installation breaks in any way
        return [Finding(name, "fault", f"{type(error).__name__}: {error}", "pip install --force-reinstall ctxtune")]


def _print(console: Console, findings: list[Finding]) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for finding in findings:
        mark = {"well": Text("ok"), "warning": Text("warning", "yellow"), "fault": Text("fault", "red")}[finding.state]
        table.add_row(finding.check, mark, finding.found)
        if finding.remedy:
            table.add_row("", "", f"-> {finding.remedy}")
    console.print(table)
    states = [finding.state for finding in findings]
    worst = max(states, key=WORST.index)
    told = {"well": "all is well", "warning": "usable, with warnings", "fault": "something does not work"}[worst]
    console.print(f"{told}: {states.count('fault')} faults, {states.count('warning')} warnings")


def _python() -> Iterator[Finding]:
    version = platform.python_version()
    well = sys.version_info >= (3, 10)
    yield Finding(
        "python",
        "well" if well else "fault",
        f"Python {version}, {platform.system()} {platform.machine()}, ctxtune {__version__}",
        "" if well else "install Python 3.10 or newer",
    )
    if sys.flags.optimize >= 2:
        yield Finding("docstrings", "warning", "left out (-OO)", "sweeps and ablations need them: unset PYTHONOPTIMIZE")
    if platform.system() == "Windows":
        yield Finding("system", "fault", "Windows is not supported", "use WSL")


def _torch() -> Iterator[Finding]:
    import torch
    import torchvision

    total = float(torch.ones(4, 4).matmul(torch.ones(4, 4)).sum())
    well = total == 64.0
    yield Finding(
        "torch",
        "well" if well else "fault",
        f"torch {torch.__version__}, torchvision {torchvision.__version__}, {torch.get_num_threads()} threads",
        "" if well else "a product of matrices is wrong: reinstall torch",
    )


def _gpu() -> Iterator[Finding]:
    import torch

    driver = _nvidia_driver()
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            memory = properties.total_memory / 2**30
            torch.ones(8, device=f"cuda:{index}").sum().item()
            told = f"{properties.name}, {memory:.0f} GiB, driver {driver or '?'}, CUDA {torch.version.cuda}"
            yield Finding("gpu", "well", told)
        return
    if torch.backends.mps.is_available():
        remedy = "train and evaluate take it with --device mps; sweeps run on the CPU"
        yield Finding("gpu", "warning", "Apple's GPU (mps)", remedy)
    elif driver is None:
        yield Finding("gpu", "warning", "none", "small networks and frozen features run on a CPU (docs/features.md)")
    elif torch.version.cuda is None:
        remedy = "install torch with CUDA: pytorch.org/get-started"
        yield Finding("gpu", "fault", f"driver {driver}, but this torch has no CUDA", remedy)
    else:
        yield Finding(
            "gpu",
            "fault",
            f"driver {driver}, but torch {torch.__version__} (CUDA {torch.version.cuda}) sees no GPU",
            "update the driver, or install a torch for an older CUDA; in a container, start it with --gpus all",
        )


def _nvidia_driver() -> str | None:
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    asked = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.split()
    return lines[0] if done.returncode == 0 and lines else None


def _faiss() -> Iterator[Finding]:
    try:
        import faiss
    except ImportError:
        remedy = "only large galleries need it: pip install 'ctxtune[cpu]' (or gpu, not both)"
        yield Finding("faiss", "warning", "not installed", remedy)
        return
    both = [name for name in ("faiss-cpu", "faiss-gpu") if _installed(name)]
    if len(both) > 1:
        yield Finding("faiss", "warning", "faiss-cpu and faiss-gpu are both installed", "pip uninstall one of them")
    else:
        yield Finding("faiss", "well", f"faiss {faiss.__version__}")


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _tracking(uri: str) -> Iterator[Finding]:
    from ctxtune.tracking import redact
    from ctxtune.tracking.checking import check_store

    if not _installed("mlflow"):
        yield Finding("tracking", "warning", "MLflow is not installed", "sweeps need it: pip install 'ctxtune[sweep]'")
        return
    try:
        check_store(uri, "ctxtune-doctor")
    except CtxtuneError as error:
        yield Finding("tracking", "fault", str(error), "see docs/tracking.md, or set MLFLOW_TRACKING_URI")
        return
    yield Finding("tracking", "well", f"{redact(uri)} can be used")


def _disks(results: Path) -> Iterator[Finding]:
    from ctxtune.data.cache import default_cache_directory

    places = {
        "results": (results, "--results DIR"),
        "image cache": (default_cache_directory(), "the environment variable CTXTUNE_CACHE"),
        "temporary files": (Path(tempfile.gettempdir()), "the environment variable TMPDIR"),
    }
    for name, (folder, option) in places.items():
        there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
        free = shutil.disk_usage(there).free / 2**30
        if not os.access(there, os.W_OK):
            yield Finding("disk", "fault", f"{name}: {there} cannot be written", f"name another folder by {option}")
        elif free < NEEDED_FREE_GIB:
            remedy = f"free some, or name another by {option}"
            yield Finding("disk", "warning", f"{name}: {free:.1f} GiB free in {there}", remedy)
        else:
            yield Finding("disk", "well", f"{name}: {free:,.0f} GiB free in {there}")


def _data() -> Iterator[Finding]:
    import warnings

    from ctxtune.data.layouts.finding import data_root
    from ctxtune.data.loading import dataset_names, load

    base = data_root("", None)
    found = [name for name in dataset_names() if name not in ("glyphs", "table") and data_root(name, None).exists()]
    if not found:
        told = f"none of the benchmarks is in {base.absolute()}"
        yield Finding("data", "well", f"{told}; glyphs need no data, CTXTUNE_DATA names another folder")
    for name in found:
        try:
            with warnings.catch_warnings(record=True) as noted:
                warnings.simplefilter("always")
                benchmark = load(name)
        except CtxtuneError as error:
            first = str(error).splitlines()[0]
            yield Finding("data", "fault", first, f"python -m ctxtune.data check {name}")
            continue
        images = sum(map(len, benchmark.splits().values()))
        state: Literal["well", "warning"] = "warning" if noted else "well"
        told = f"{name}: {images:,} images, {benchmark.layout}" + "".join(f"; {note.message}" for note in noted)
        yield Finding("data", state, told, f"python -m ctxtune.data check {name}" if noted else "")


def _shared_memory() -> Iterator[Finding]:
    place = Path("/dev/shm")
    if not place.is_dir():
        yield Finding("shared memory", "well", "this system has no /dev/shm; Ray takes files")
        return
    size = shutil.disk_usage(place).total / 2**30
    well = size >= NEEDED_SHARED_GIB
    remedy = "" if well else "in a container, start it with --shm-size=2g; otherwise Ray takes slow files in /tmp"
    yield Finding("shared memory", "well" if well else "warning", f"{size:.1f} GiB in {place}", remedy)


def _ray() -> Iterator[Finding]:
    from ctxtune.tuning.backend.local_ray import local_ray

    notes: list[str] = []
    if not _installed("ray"):
        yield Finding("ray", "warning", "not installed", "sweeps need it: pip install 'ctxtune[sweep]'")
        return
    version = importlib.metadata.version("ray")
    try:
        with local_ray({"num_cpus": 1, "logging_level": logging.ERROR}, notes.append):
            pass
    except CtxtuneError as error:
        yield Finding(
            "ray", "fault", f"Ray {version} does not start: {error}", "see the message; another TMPDIR may help"
        )
        return
    yield Finding("ray", "well", f"Ray {version} starts on this machine" + "".join(f"; {note}" for note in notes))


if __name__ == "__main__":
    run_command(main)
