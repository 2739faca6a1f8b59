"""One run on this machine, without Ray: its folder, its processes, what is shown and left (`python -m ctxtune.train`)."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ctxtune.config import TrialFile, stage_seed
from ctxtune.consoles import Console, printable_lines
from ctxtune.data.features import Reporter
from ctxtune.durable_files import write_durably
from ctxtune.errors import ConfigError
from ctxtune.locks import open_lock, try_lock
from ctxtune.models.weights import weight_record
from ctxtune.notifications import notifying
from ctxtune.terminal import named_device, use_threads
from ctxtune.training import CheckpointFolder, FoldTrainer, ProcessGroup, fold_splits
from ctxtune.training import progress as standing
from ctxtune.training.progress_bars import progress_bars
from ctxtune.training.trainer import Report, Trainer
from ctxtune.yaml_text import Tree


def train_file(
    file: TrialFile,
    results: Path,
    *,
    seed_index: int,
    device: str,
    threads: int | None,
    resume: bool,
    quiet: bool,
    rank: int,
    processes: int,
) -> None:
    """Train the configuration of a file, or go on with it.

    Args:
        results: the folder of all results; this run's is ``results/NAME/train-seedN``.
        device: auto, or a device of torch.
        rank: of this process among ``processes``, which torchrun has started.

    Raises:
        CtxtuneError: what the user can correct, or a run that could not go on.
    """
    world = ProcessGroup(rank, processes)
    use_threads(threads)
    own_device = _device(device, world)
    folder = results / file.name / f"train-seed{seed_index}"
    with (
        notifying(None if world.rank else file.notify, "train", file.name) as outcome,
        _processes(world, own_device),
        _own_folder(folder, world),
    ):
        outcome.message = _train_in(folder, file, own_device, world, seed_index=seed_index, resume=resume, quiet=quiet)


def _train_in(
    folder: Path,
    file: TrialFile,
    device: torch.device,
    world: ProcessGroup,
    *,
    seed_index: int,
    resume: bool,
    quiet: bool,
) -> str:
    """Train, or go on; the last line of scores."""
    checkpoints = CheckpointFolder(folder)
    # Only what the first process found: it may write while the others still look.
    found = world.from_first(bool(checkpoints.paths()))
    if found and not resume:
        raise ConfigError(f"{folder} holds a run already; go on with it by --resume, or give this one another --name")
    newest = checkpoints.load_newest() if found else None
    console = Console(highlight=False, soft_wrap=True, quiet=quiet or world.rank > 0, markup=False)
    with progress_bars(console) as reporter:
        trainer = open_trainer(
            file,
            seed_index=seed_index,
            device=device,
            world=world,
            load_pretrained=newest is None,
            reporter=reporter,
        )
    try:
        if newest is not None:
            trainer.load_state_dict(newest)
            console.print(f"going on after epoch {trainer.epoch}")
        elif resume:
            console.print("there is no checkpoint to go on from; starting")
        del newest
        _run(trainer, checkpoints, console, world)
        if world.rank == 0:
            _write_result(folder, file, trainer)
            print(printable_lines(f"checkpoints and result.json in {folder}"), file=sys.stdout)  # noqa: T201
    except KeyboardInterrupt:
        console.print(f"stopped after epoch {trainer.epoch}; the same command with --resume goes on")
        raise
    finally:
        trainer.close()
    return _line(trainer.history[-1])


def _run(trainer: Trainer, checkpoints: CheckpointFolder, console: Console, world: ProcessGroup) -> None:
    def save(best: bool = False) -> None:
        if world.rank == 0:
            checkpoints.save(trainer.state_dict(), trainer.run_epochs, best=best)

    with _Display(console, trainer) as display:

        def on_report(report: Report) -> None:
            save(report.best)
            display.report(report.metrics)

        trainer.run(on_report, display.show, save)


def open_trainer(
    file: TrialFile,
    *,
    seed_index: int,
    device: torch.device,
    world: ProcessGroup | None = None,
    load_pretrained: bool = True,
    reporter: Reporter | None = None,
) -> Trainer:
    """The run of a file, one for each validation fold in use; `reporter` is told where features are computed."""
    seed = stage_seed("train", seed_index)
    folds = [fold_splits(file.trial, file.validation, fold, seed) for fold in file.validation.use]
    return Trainer(
        [
            FoldTrainer(
                file.trial,
                splits,
                seed=seed,
                device=device,
                world=world,
                load_pretrained=load_pretrained,
                reporter=reporter,
            )
            for splits in folds
        ],
        protocol={
            "stage": "",
            "validation": file.validation.model_dump(mode="json"),
            "folds": list(file.validation.use),
        },
    )


def _device(asked: str, world: ProcessGroup) -> torch.device:
    device = named_device(asked)
    if device.type != "cuda":
        return device
    if world.is_distributed:
        if device.index is not None:
            raise ConfigError(f"--device {asked}: under torchrun each process takes its own GPU; say cuda")
        device = named_device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
    if device.index is not None:  # "cuda" alone is the current device already, and set_device refuses it
        torch.cuda.set_device(device)
    return device


@contextlib.contextmanager
def _processes(world: ProcessGroup, device: torch.device) -> Iterator[None]:
    """The group of processes that torchrun has started, while they train."""
    if not world.is_distributed:
        yield
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(minutes=30))
    try:
        yield
        dist.barrier()  # nobody leaves while another may still need it
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def _own_folder(folder: Path, world: ProcessGroup) -> Iterator[None]:
    """Keep a second command out of the folder while this one is at work; the lock ends with the process."""
    if world.rank > 0:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with open_lock(folder / ".lock") as lock:
        if not try_lock(lock):
            raise ConfigError(f"another process is training in {folder}; give this one another --name")
        CheckpointFolder(folder).remove_leftovers()
        yield


class _Display:
    """A bar for a terminal, and a line for each evaluation."""

    def __init__(self, console: Console, trainer: Trainer) -> None:
        self._console, self._trainer = console, trainer
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[terms]}"),
            TextColumn("{task.fields[rate]:.0f} images/s"),
            TextColumn("{task.fields[score]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> "_Display":
        self._bar.start()
        trainer = self._trainer
        self._task = self._bar.add_task(
            "",
            total=float(trainer.epochs * len(trainer.runs)),
            completed=trainer.run_epochs,
            epoch=trainer.epoch,
            epochs=trainer.epochs,
            terms="",
            rate=0.0,
            score="",
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, progress: standing.Progress) -> None:
        """Where the run stands now."""
        assert self._task is not None
        self._bar.update(
            self._task,
            completed=self._trainer.run_epochs + progress.batch / progress.batches,
            epoch=progress.epoch,
            terms="  ".join(f"{name} {value:.4f}" for name, value in progress.terms.items()),
            rate=progress.images_per_second,
        )

    def report(self, metrics: dict[str, float]) -> None:
        """What an evaluation has found."""
        assert self._task is not None
        score = metrics.get("validation/map_at_r")
        self._bar.update(self._task, score="" if score is None else f"map_at_r {score:.4f}")
        self._console.print(_line(metrics))


def _line(metrics: dict[str, float]) -> str:
    shown = [f"epoch {metrics['epoch']:>3.0f}"]
    for name, value in metrics.items():
        if name.startswith(("train/loss", "validation/")) or name == "train/recall_at_1":
            shown.append(f"{name} {value:.4f}")
    return "  ".join([*shown, f"{metrics['time/images_per_second']:.0f} images/s"])


def _write_result(folder: Path, file: TrialFile, trainer: Trainer) -> None:
    run = trainer.runs[0]
    result: Tree = {
        "name": file.name,
        "config_hash": file.trial.hash(),
        "trial": file.trial.tree(),
        "seed": run.seed,
        "device": str(run.device),
        "processes": run.world.size,
        "precision": run.precision,
        **({"weights": record} if (record := weight_record(run.trial.model)) else {}),
        "torch": torch.__version__,
        "metrics": trainer.history[-1],
        "best": trainer.best,
        "history": trainer.history,
    }
    write_durably(folder / "result.json", [json.dumps(result, indent=2).encode()])
