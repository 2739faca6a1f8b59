"""Everything that only a GPU can show, checked and measured by one command in at most nine minutes.

    python benchmarks/gpu.py [--minutes 8] [--sections loss scores ...] [--json gpu.json] [--data omniglot.zip]
    python benchmarks/gpu.py --tiny            # in small, on a CPU too: does the command itself work?

Sections run one after another, each in a process of its own with a time limit: one that fails, dies or takes too long
is reported with its reason, and keeps what it had found. Time is taken between CUDA events after a warm-up, contenders
take turns, medians are printed; launches are counted by torch.profiler. The sections:

    machine    the card, and what copies and matrix products reach on it
    tests      the tests marked `gpu`
    loss       the contextual loss against its direct form: time, launches, memory, values, CUDA graphs
    scores     retrieval scores against a product with topk, and against the CPU's values
    step       training ResNet-50 at 224 px: ours, the bare step and a plain loop (benchmarks/training.py), with CUDA
               graphs and without
    images     from the decoded cache to the device
    share      what the loss takes of a training step
    precision  float32, tf32, bfloat16, float16 with scaling
    compiled   torch.compile
    omniglot   a short training that has to reach the CPU's score (glyphs where --data is missing)
    features   features of a frozen network, and the cache of them
    head       heads on features in the device's memory

Needs torch, torchvision, timm, pytest (with timeout and xdist) and what ctxtune's lower rooms import: pydantic,
pytorch-metric-learning, PyYAML, matplotlib, and for the tests hypothesis and rich. No Ray, Optuna or MLflow.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from gpu_checks.features import features, head
from gpu_checks.loss import loss, share
from gpu_checks.machine import machine
from gpu_checks.omniglot import omniglot
from gpu_checks.report import Report, Scale, collect, lines_of
from gpu_checks.scores import scores
from gpu_checks.suite import tests
from gpu_checks.training import compiled, images, precision, step

# Asking whether there is a GPU must not start CUDA in this process, or no child could be forked.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
Section = Callable[[Scale, Report], None]
# The most important first: what there is no time for is left out at the end.
SECTIONS: dict[str, tuple[Section, int]] = {
    "machine": (machine, 40),
    "tests": (tests, 150),
    "loss": (loss, 60),
    "scores": (scores, 70),
    "step": (step, 120),
    "images": (images, 40),
    "share": (share, 50),
    "omniglot": (omniglot, 90),
    "features": (features, 50),
    "head": (head, 60),
    "precision": (precision, 60),
    "compiled": (compiled, 130),
}
"""Name to the section and the most seconds that it may take."""
REASON_LENGTH = 2000


@dataclass(frozen=True)
class Outcome:
    """How a section ended: "done", or "failed" or "not run" with the reason."""

    status: str
    seconds: float
    reason: str | None = None


def run_sections(
    sections: dict[str, tuple[Section, int]], scale: Scale, minutes: float
) -> dict[str, tuple[Outcome, dict[str, Any]]]:
    """Each section in turn: how it ended, and what it found."""
    method = _start_method(scale)
    until = time.monotonic() + 60 * minutes
    found: dict[str, tuple[Outcome, dict[str, Any]]] = {}
    for name, (section, limit) in sections.items():
        file = scale.folder / f"{name}.jsonl"
        left = until - time.monotonic()
        if left < 5:
            found[name] = Outcome("not run", 0.0, f"the {minutes:g} minutes were over"), collect(file)
            continue
        outcome = run_one(name, section, scale, file, min(limit, left), method)
        found[name] = outcome, collect(file)
        print("\n".join(section_lines(name, *found[name])), flush=True)
    return found


def run_one(name: str, section: Section, scale: Scale, file: Path, limit: float, method: str) -> Outcome:
    """Run a section in a process of its own, and end it with all its children when its time is up."""
    context = multiprocessing.get_context(method)
    errors = scale.folder / f"{name}.error"
    process = context.Process(target=_inside, args=(section, scale, file, errors), name=name)
    started = time.monotonic()
    process.start()
    process.join(limit)
    seconds = time.monotonic() - started
    late = process.is_alive()
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid or 0, signal.SIGKILL)  # itself, or what it left behind
    process.join()
    if late:
        return Outcome("failed", seconds, f"took longer than {limit:.0f} s")
    if process.exitcode:
        reason = errors.read_text() if errors.exists() else f"its process ended with status {process.exitcode}"
        return Outcome("failed", seconds, reason)
    return Outcome("done", seconds)


def _inside(section: Section, scale: Scale, file: Path, errors: Path) -> None:
    """The child: a process group of its own; what goes wrong is written down for the parent."""
    os.setpgid(0, 0)
    try:
        section(scale, Report(file))
    except BaseException:  # noqa: BLE001 - whatever it was, the other sections go on
        text = traceback.format_exc()
        print(text, flush=True)
        errors.write_text(text[-REASON_LENGTH:])
        os._exit(1)


def _start_method(scale: Scale) -> str:
    """Fork, which spares each section the imports, where a forked child can use the device; else spawn."""
    if not scale.on_gpu:
        return "fork"
    trial = run_one("fork", _touch, scale, scale.folder / "fork.jsonl", 60, "fork")
    return "fork" if trial.status == "done" else "spawn"


def _touch(scale: Scale, report: Report) -> None:
    torch.zeros(1, device=scale.device).add_(1).item()


def section_lines(name: str, outcome: Outcome, findings: dict[str, Any]) -> list[str]:
    """A section as text."""
    lines = [f"\n{name}: {outcome.status}, {outcome.seconds:.0f} s"]
    if outcome.reason:
        lines += [f"  {line}" for line in outcome.reason.splitlines()[-12:]]
    for title, rows in findings["tables"].items():
        lines += lines_of(title, rows)
    return lines + check_lines(findings["checks"])


def check_lines(checks: Sequence[dict[str, Any]]) -> list[str]:
    """Goals and what was found, as text."""
    shown = []
    for check in checks:
        found = check["found"] if isinstance(check["found"], bool) else f"{check['found']:.4g}"
        shown.append(f"  {'met   ' if check['met'] else 'MISSED'}  {check['check']}: {found} (goal {check['goal']})")
    return shown


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0, help="for all sections together (default 8)")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS), metavar="NAME")
    parser.add_argument("--skip", nargs="+", choices=SECTIONS, default=[], metavar="NAME")
    parser.add_argument("--device", default="auto", help="auto (the default), cuda, cuda:N or cpu")
    parser.add_argument("--tiny", action="store_true", help="everything in small")
    parser.add_argument("--data", type=Path, help="Omniglot: a folder, or a zip archive")
    parser.add_argument("--json", type=Path, help="write all that was found here")
    options = parser.parse_args(arguments)
    if options.data is not None and not options.data.exists():
        parser.error(f"--data: there is no {options.data}")
    if options.json is not None and not options.json.resolve().parent.is_dir():
        parser.error(f"--json: there is no folder {options.json.resolve().parent}")
    if options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    elif options.device != "cpu" and not torch.cuda.is_available():
        parser.error(f"--device {options.device}: torch sees no CUDA device")
    if options.device == "cpu" and not options.tiny:
        parser.error("torch sees no CUDA device; on a CPU only --tiny is of use")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, write; 1 where a section failed or a goal was missed."""
    options = parse(arguments)
    chosen = {name: each for name, each in SECTIONS.items() if name in options.sections and name not in options.skip}
    with tempfile.TemporaryDirectory(prefix="ctxtune-gpu-") as folder:
        scale = Scale(options.tiny, torch.device(options.device), Path(folder), options.data)
        found = run_sections(chosen, scale, options.minutes)
    checks = [check for _, findings in found.values() for check in findings["checks"]]
    missed = [check for check in checks if not check["met"]]
    failed = [name for name, (outcome, _) in found.items() if outcome.status != "done"]
    done, met = len(found) - len(failed), len(checks) - len(missed)
    print(f"\n{done} of {len(found)} sections done, {met} of {len(checks)} goals met")
    for name in failed:
        print(f"  {found[name][0].status}: {name}")
    print("\n".join(check_lines(missed)))
    if options.json is not None:
        tree = {name: vars(outcome) | findings for name, (outcome, findings) in found.items()}
        options.json.write_text(json.dumps(tree, indent=1, default=str))
    return 1 if failed or missed else 0


if __name__ == "__main__":
    sys.exit(main())
