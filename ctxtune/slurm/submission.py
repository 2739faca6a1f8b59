"""From a command line with ``--slurm`` to a job in Slurm's queue."""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ctxtune.consoles import Console
from ctxtune.durable_files import write_whole
from ctxtune.errors import ConfigError, CtxtuneError
from ctxtune.redaction import redact, redact_argument
from ctxtune.slurm.options import SlurmOptions, parse_options
from ctxtune.slurm.script import JobCommand, batch_script
from ctxtune.terminal import report_command, writable_folder
from ctxtune.text import counted

if TYPE_CHECKING:
    from ctxtune.config import TrialFile

ANSWER_SECONDS = 120


def run_on_slurm(arguments: argparse.Namespace, command: str, file: Path, config: "TrialFile") -> int:
    """Submit what the command line asks for, or print its script for ``--dry-run``.

    Args:
        arguments: of the command line, ``arguments.slurm`` among them.
        command: sweep or ablate.
        file: that the command line named.
        config: read from it.

    Returns:
        the exit status.

    Raises:
        ConfigError: options that cannot be, or that do not go together; it was started before.
        CtxtuneError: sbatch is not here or refuses.
    """
    options = parse_options(arguments.slurm)
    _check(arguments, options, config)
    folder = Path(arguments.results).absolute() / config.name
    words = [command, *_passed_on(arguments, file, options, folder)]
    script = batch_script(JobCommand(sys.executable, words, config.name, folder, f"{folder}/slurm/%j.log"), options)
    console = Console(highlight=False, soft_wrap=True, markup=False)
    if arguments.dry_run:
        sys.stdout.write(script)
        return 0
    writable_folder(folder, "--results")
    job = submit(script, folder / "slurm")
    log = folder / "slurm" / f"{job}.log"
    console.print(f"job {job}: {config.name} on {counted(options.nodes, 'node')}")
    told = {
        "its script": str(folder / "slurm" / "job.sh"),
        "its state": f"squeue --job {job}",
        "its output": f"tail -F {shlex.quote(os.path.relpath(log))}",
        "end it": f"scancel {job}   (python -m ctxtune.{command} ... --slurm ... --resume goes on with it)",
        "its report": report_command(config.name, config.tracking.uri),
    }
    for what, text in told.items():
        console.print(f"  {what + ':':<12} {text}")
    return 0


def submit(script: str, folder: Path) -> str:
    """Write a batch script into a folder and hand it to sbatch; the job's number.

    Raises:
        ConfigError: sbatch is not here, or a job of this script is in the queue.
        CtxtuneError: sbatch refuses.
    """
    if shutil.which("sbatch") is None:
        raise ConfigError(
            "--slurm: there is no sbatch on this machine: run this on a login node of the cluster; --dry-run prints the script"
        )
    file = folder / "job.sh"
    if (job := queued_job(file)) is not None:
        raise ConfigError(
            f"--slurm: job {job} of {folder.parent} is in the queue or runs (squeue --job {job}): a requeued job goes on by "
            f"itself, and two would wait for each other. To submit it anew: scancel {job}, then --resume"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(file, script)
    # What the job that this command may run in has set is no wish for the new one.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    environment |= {name: value for name, value in os.environ.items() if name == "SLURM_CONF"}
    try:
        done = subprocess.run(
            ["sbatch", "--parsable", str(file)],
            env=environment, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise CtxtuneError(f"sbatch has not answered within {ANSWER_SECONDS} s; see with squeue --me") from None
    if done.returncode:
        why = "; ".join(line.removeprefix("sbatch: ").strip() for line in done.stderr.splitlines() if line.strip())
        raise CtxtuneError(f"--slurm: sbatch refuses the job: {why or 'without a word'} (its script: {file})")
    return done.stdout.strip().partition(";")[0]


def queued_job(script: Path) -> str | None:
    """The number of this user's job with that script, in the queue or at work; None also where Slurm does not say."""
    try:
        done = subprocess.run(
            ["squeue", "--me", "--noheader", "--format=%A %o"],
            capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    jobs = (line.strip().split(" ", 1) for line in done.stdout.splitlines() if " " in line.strip())
    return next((number for number, command in jobs if command == str(script)), None)


def _check(arguments: argparse.Namespace, options: SlurmOptions, config: "TrialFile") -> None:
    if arguments.address:
        raise ConfigError("--slurm makes a cluster of its own: leave out --address")
    if arguments.assume is not None:
        raise ConfigError("--assume plans, and --slurm runs: leave one of them out")
    secret = next((each for each in arguments.overrides if redact_argument(each) != each), None)
    if secret is not None:
        raise ConfigError(
            f"--set {redact_argument(secret)}: its password or key would be written into the batch script; give it by the "
            "environment, which Slurm passes on (MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD)"
        )
    if arguments.storage and redact(arguments.storage) != arguments.storage:
        raise ConfigError(
            f"--storage {redact(arguments.storage)}: its key would be written into the batch script; give it by the "
            "environment, which Slurm passes on (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)"
        )
    for key, asked, there, option in (
        ("gpus", config.resources.gpus, options.gpus, "gpus_per_node"),
        ("cpus", config.resources.cpus, options.cpus, "cpus_per_task"),
    ):
        if asked != "auto" and asked > there:
            raise ConfigError(
                f"--slurm: one run asks for {asked:g} {key} on one node (resources.{key}), but a node of this job has {there}; "
                f"say {option}={asked:g} or more, or lower resources.{key}"
            )
    journal = Path(arguments.results) / config.name / "journal.jsonl"
    if not arguments.resume and journal.exists() and journal.stat().st_size:
        raise ConfigError(
            f"{journal.parent}: {config.name} was started here before; go on with it by --resume, start another with "
            "--name NAME, or delete the folder"
        )


def _passed_on(arguments: argparse.Namespace, file: Path, options: SlurmOptions, folder: Path) -> Sequence[str]:
    """The arguments of the same command inside the job."""
    words = [str(file.absolute()), "--results", str(folder.parent)]
    words += [word for override in arguments.overrides for word in ("--set", override)]
    words += ["--name", arguments.name] if arguments.name is not None else []
    storage = arguments.storage or (str(folder / "checkpoints") if options.nodes > 1 else None)
    words += ["--storage", storage] if storage else []
    return [*words, *(f"--{flag}" for flag in ("resume", "quiet", "json") if getattr(arguments, flag))]
