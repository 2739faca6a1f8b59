"""What Ray Tune runs in its worker processes: one run, its reports and checkpoints."""

import contextlib
import errno
import functools
import gc
import os
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from ray import tune
from ray.tune import Checkpoint

from ctxtune.data.memory import return_free_memory
from ctxtune.durable_files import NO_ROOM
from ctxtune.errors import CtxtuneError, RunFailed
from ctxtune.results.costs import Rate
from ctxtune.training import load_checkpoint, save_checkpoint
from ctxtune.training.checkpoints import STATE_FILE, State
from ctxtune.training.trainer import Report
from ctxtune.tuning.backend.devices import leave_broken_process, run_device
from ctxtune.tuning.backend.private_folders import private_folder, remove_abandoned
from ctxtune.tuning.record.run_spec import RunSpec
from ctxtune.tuning.record.trial_report import DISK_FULL, EPOCH, TrialFailure, TrialReport
from ctxtune.tuning.run_trainer import open_trainer

CHECKPOINT = "checkpoint_address"
"""Of a report whose checkpoint Ray Tune has not taken itself."""
_UNWRITABLE = (*NO_ROOM, errno.EROFS)
_TORCH_CANNOT_WRITE = "PytorchStreamWriter failed writing"


def run_trial(config: dict[str, Any]) -> None:
    """Train the run of ``config["spec"]``, from its last checkpoint if there is one.

    What is wrong with the run itself (a loss that is not finite, no memory, an error in a user's loss) is reported as a
    failure and not tried again; a process or machine that dies is, by Ray, from the last checkpoint.
    """
    spec = RunSpec.model_validate_json(config["spec"])
    remove_abandoned()
    began = time.perf_counter()
    rate = Rate(config["gpus"], config.get("price"))
    cores = max(1, int(config["threads"]))
    torch.set_num_threads(cores)
    trainer = None
    try:
        device = run_device(config["gpus"])
        leave_broken_process(device)
        cache_dir = config["cache_dir"] and Path(config["cache_dir"])
        trainer = open_trainer(spec, device=device, cache_dir=cache_dir, cores=cores)
        state = _state_to_resume(config["resume_from"])
        if state is not None:
            trainer.load_state_dict(state)
        prepared = time.perf_counter() - began
        trainer.run(lambda report: _send(report, rate.of(prepared + report.metrics["time/seconds"])))
    except RunFailed as error:
        _fail(trainer.epoch if trainer else 0, error.reason, str(error))
    except Exception as error:  # noqa: BLE001 - whatever a user's model or loss raises belongs to this run alone
        epoch = trainer.epoch if trainer else 0
        if disk_is_full(error):
            _fail(epoch, DISK_FULL, f"a checkpoint cannot be written: {str(error).splitlines()[0]}")
        else:
            _fail(epoch, "error", f"{error}\n{traceback.format_exc()}")
    finally:
        if trainer is not None:
            trainer.close()
        trainer = None
        _give_memory_back()


def _give_memory_back() -> None:
    """To other runs on this GPU or machine, and to the next one in this process, which may be used again."""
    gc.collect()
    return_free_memory()
    _leave_libraries_alone()
    if torch.cuda.is_initialized():
        with contextlib.suppress(RuntimeError):  # a CUDA error of the run, which has been told already
            torch.cuda.empty_cache()


@functools.cache
def _leave_libraries_alone() -> None:
    """Once a process: half a million objects of the libraries, which stay anyhow; looking through them takes 0.3 s a run."""
    gc.freeze()


def _send(report: Report, costs: dict[str, float]) -> None:
    with private_folder() as folder:
        (checkpoint := folder / "checkpoint").mkdir()
        save_checkpoint(report.state(), checkpoint / STATE_FILE)
        tune.report(told(report, costs), checkpoint=Checkpoint.from_directory(checkpoint))


def told(report: Report, costs: dict[str, float]) -> dict[str, object]:
    """What the driver is told of a report."""
    metrics = {name: value for name, value in (report.metrics | costs).items() if name != EPOCH}
    return TrialReport(int(report.metrics[EPOCH]), metrics, report.by_class, report.shown).plain()


def _fail(epoch: int, reason: str, message: str) -> None:
    tune.report(TrialFailure(epoch, reason, message).plain())


def disk_is_full(error: BaseException | None) -> bool:
    """Whether an error, or one that it came from, says that there is no room left (or no quota), or nothing may be written."""
    while error is not None:
        if isinstance(error, OSError) and (
            error.errno in _UNWRITABLE or any(os.strerror(number) in str(error) for number in _UNWRITABLE)
        ):
            return True
        if _TORCH_CANNOT_WRITE in str(error):
            return True  # torch's writer of archives says no more than this
        error = error.__cause__ or error.__context__
    return False


def _state_to_resume(earlier: Sequence[str]) -> State | None:
    """The newest state that can be read: Ray's own, then those of an earlier process of this sweep; None: none."""
    given = tune.get_checkpoint()
    for checkpoint in [*([given] if given else []), *map(Checkpoint, earlier)]:
        with contextlib.suppress(OSError, CtxtuneError), checkpoint.as_directory() as folder:
            return load_checkpoint(Path(folder) / STATE_FILE)
    return None
