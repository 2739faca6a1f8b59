"""The batch script of a sweep or an ablation."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ctxtune.slurm.options import SlurmOptions

WORD_BREAK = " \\\n    "
_ITSELF = """\
# Whatever ends the job early (the time limit, a job of higher priority), the sweep is told in time, writes down what it
# knows, and goes on with --resume when Slurm starts the job again.
"""


@dataclass(frozen=True)
class JobCommand:
    """What a job runs.

    Attributes:
        python: the interpreter, with this package in it.
        command: the command's name and its arguments: sweep, FILE, ...
        name: of the sweep or ablation.
        folder: its results, as the job finds them.
        log: what the job prints, in Slurm's words (%j: the job's number); its folder must be there.
    """

    python: str
    command: Sequence[str]
    name: str
    folder: Path
    log: str


def batch_script(work: JobCommand, options: SlurmOptions) -> str:
    """A script for sbatch, the same whether it is written and submitted here or kept and changed by hand."""
    lines = ["#!/bin/bash", *directives(work, options), "", _ITSELF.rstrip()]
    lines.append("trap '' USR1  # until the sweep listens to it")
    if options.setup is not None:
        lines.append(f"source {shlex.quote(str(options.setup.absolute()))}")
    job = [work.python, "-m", "ctxtune.slurm.job", "--folder", str(work.folder), "--", *work.command]
    lines.append(f"exec {_wrapped(job)}")
    return "\n".join(lines) + "\n"


def directives(work: JobCommand, options: SlurmOptions) -> list[str]:
    """The lines that sbatch reads."""
    asked: list[tuple[str, object]] = [
        ("job-name", work.name),
        ("nodes", options.nodes),
        ("ntasks-per-node", 1),
        ("cpus-per-task", options.cpus),
        ("gpus-per-node", options.gpus_per_node),
        *((key, getattr(options, key)) for key in ("mem", "time", "partition", "account", "qos", "constraint")),
        *((key, getattr(options, key)) for key in ("reservation", "exclude")),
        ("mail-user", options.mail_user),
        ("mail-type", "END,FAIL" if options.mail_user else None),
        ("output", work.log),
        ("open-mode", "append"),
        ("signal", f"B:USR1@{options.signal}"),
    ]
    lines = [f"#SBATCH --{key}={shlex.quote(str(value))}" for key, value in asked if value is not None]
    return [*lines, "#SBATCH --requeue"]


def _wrapped(words: Sequence[str]) -> str:
    """A command for the shell, a new line before each option after ``--``."""
    text, own = shlex.quote(words[0]), False
    for word in words[1:]:
        before = WORD_BREAK if word.startswith("--") and own and len(word) > 2 else " "
        text += before + shlex.quote(word)
        own = own or word == "--"
    return text
