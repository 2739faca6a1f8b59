"""What several commands share: their arguments, where they write, what they print."""

import argparse
import os
import shlex
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ctxtune.command_line import OTHER_EXITS, whole_number
from ctxtune.errors import ConfigError
from ctxtune.text import shortened

if TYPE_CHECKING:
    import torch

    from ctxtune.config.source import Override

MOST_THREADS = 1024
PAGES = (".html", ".htm")
"""Suffixes of what may be replaced by a new page."""
DEFAULT_TRACKING = "sqlite:///mlflow.db"
DRIVER_EXITS = (
    "Exit status: 0 done, 1 stopped (too many failures, full disk, Ray has died) or 130 interrupted: go on with --resume; "
    "2 wrong input, nothing was started; 3 done, but tracking has not everything or a file is missing, as told; "
    f"{OTHER_EXITS}."
)


def program(name: str) -> str:
    """How to call a program of this Python's environment (python, mlflow) from the present directory."""
    beside = Path(sys.executable).parent / name
    found = shutil.which(name)
    if found is not None and Path(found).parent == beside.parent:
        return name
    return os.path.relpath(beside) if beside.is_relative_to(Path.cwd()) else str(beside)


def shell_command(name: str, *arguments: str | Path) -> str:
    """A command for copying: a program of this Python's environment and its arguments, quoted for the shell."""
    return shlex.join([program(name), *map(str, arguments)])


def check_docstrings() -> None:
    """Refuse a Python that leaves docstrings out, for the commands that need Ray, which cannot be imported without.

    Raises:
        ConfigError: it does.
    """
    if sys.flags.optimize >= 2:
        raise ConfigError(
            "PYTHONOPTIMIZE=2 (python -OO) leaves docstrings out, and Ray cannot be imported without: unset it, or set it to 1"
        )


def writable_folder(folder: Path, option: str) -> Path:
    """A folder that can be made and written, though nothing is made yet.

    Args:
        folder: where a command is going to write.
        option: that named it, such as ``--results``, for the message.

    Raises:
        ConfigError: nothing can be written there.
    """
    try:
        there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
        with tempfile.TemporaryDirectory(prefix=".ctxtune-", dir=there):  # what a file system says of rights is not all
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"{option}: nothing can be written in {folder} ({reason}); name another folder") from None
    return folder


def check_replaced(option: str, target: Path | None, *, ours: bool) -> None:
    """Refuse to write over a file that the command has not written before: a checkpoint, a picture.

    Args:
        option: that named the file, for the message.
        target: None where none is asked for.
        ours: whether a file of its name that is there is one of the command's.

    Raises:
        ConfigError: the file is there, and of another kind.
    """
    if target is not None and not ours and os.path.isfile(target):  # noqa: PTH113  # Path raises for names that are too long
        raise ConfigError(f"{option} {target}: is there, and would be lost; name another file")


def report_command(name: str, tracking_uri: str) -> str:
    """The command that makes the report of a sweep or ablation."""
    from ctxtune.tracking import redact

    usual = os.environ.get("MLFLOW_TRACKING_URI", DEFAULT_TRACKING)
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:  # a submitted job's environment is not that of whoever reads this
        usual = DEFAULT_TRACKING
    where = [] if tracking_uri == usual else ["--tracking", redact(tracking_uri)]
    return shell_command("python", "-m", "ctxtune.report", name, *where)


def tracking_places(tracking_uri: str, link: str | None) -> dict[str, str]:
    """Where the runs can be looked at: the pages of a server, or the command that serves them and then the page."""
    from ctxtune.tracking import redact

    if tracking_uri.startswith(("http://", "https://")):
        return {"all runs in MLflow": link or redact(tracking_uri)}
    places = {"all runs in MLflow": shell_command("mlflow", "ui", "--backend-store-uri", redact(tracking_uri))}
    return places | ({"  and then open": link} if link else {})


def named_device(asked: str) -> "torch.device":
    """The device of ``--device``: auto takes a CUDA device where torch sees one; Apple's (mps) must be asked for.

    Raises:
        ConfigError: no such device.
    """
    import torch  # seconds, which commands without a device need not wait for

    if asked == "auto":
        asked = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(asked)
    except RuntimeError:
        raise ConfigError(f"--device {asked}: expected auto, cpu, cuda, cuda:N or mps") from None
    if device.type not in ("cpu", "cuda", "mps"):
        raise ConfigError(f"--device {asked}: expected auto, cpu, cuda, cuda:N or mps")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError(f"--device {asked}: torch sees no Apple GPU on this machine")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"--device {asked}: torch sees no CUDA device on this machine")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"--device {asked}: torch sees {torch.cuda.device_count()} CUDA devices on this machine")
    return device


def use_threads(count: int | None) -> None:
    """Have torch use so many CPU threads; None: as many as it takes.

    Raises:
        ConfigError: of ``--threads``, that cannot be.
    """
    if count is None:
        return
    if not 1 <= count <= MOST_THREADS:
        raise ConfigError(f"--threads {count}: expected a number from 1 to {MOST_THREADS}")
    import torch  # as above

    torch.set_num_threads(count)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of every command that runs a checkpoint's model."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: %(default)s)")
    parser.add_argument("--threads", type=whole_number, help="CPU threads (default: what torch takes)")


def add_file_arguments(parser: argparse.ArgumentParser, what: str) -> None:
    """The arguments of every command that reads a YAML file."""
    parser.add_argument("file", metavar="FILE", help=what)
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        dest="overrides",
        help="override a leaf, its path counted from the file's root, e.g. --set trial.loss.k=8 (again for more)",
    )
    parser.add_argument("--name", help="override the file's name: of the results folder and the MLflow experiment")
    parser.add_argument(
        "--results", metavar="DIR", default="results", help="folder of all results (default: %(default)s)"
    )


def add_driver_arguments(parser: argparse.ArgumentParser, what: str) -> None:
    """The arguments of the commands that drive many runs; ``what``: sweep or ablation."""
    parser.add_argument("--resume", action="store_true", help=f"go on with this {what} where an earlier process ended")
    parser.add_argument("--dry-run", action="store_true", help="check everything, train one step, print the plan, stop")
    parser.add_argument(
        "--assume",
        metavar="images_per_second=N,gpus=N",
        help="with --dry-run: plan for a machine that is not at hand, on which one run trains so many images a second",
    )
    parser.add_argument("--address", help="of a running Ray cluster: auto, HOST:PORT or ray://HOST:PORT")
    parser.add_argument("--storage", help="where checkpoints go on a cluster: /nfs/..., s3://..., gs://...")
    parser.add_argument(
        "--slurm",
        metavar="nodes=N,gpus_per_node=N,time=HH:MM:SS,...",
        help="write a batch script and submit it to Slurm; --dry-run prints it (docs/slurm.md lists the options)",
    )
    parser.add_argument("--quiet", action="store_true", help="print the outcome only")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON, for scripts")


def check_assumption(arguments: argparse.Namespace) -> None:
    """An assumed machine can be planned for, not run on. Raises ConfigError."""
    if arguments.assume is not None and not (arguments.dry_run or arguments.slurm is not None):
        raise ConfigError("--assume plans only: add --dry-run")


def all_overrides(arguments: argparse.Namespace) -> "list[str | Override]":
    """The overrides of a command line, ``--name`` among them: that one is taken literally, whatever it looks like."""
    from ctxtune.config.source import Override  # torch comes with it, which a missing file need not wait for

    name = arguments.name
    named = [] if name is None else [Override("name", name, f"--name {shortened(name)}")]
    return [*arguments.overrides, *named]
