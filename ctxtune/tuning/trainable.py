"""What Ray Tune runs in its worker processes: one run, its reports and checkpoints."""

import contextlib
import gc
import tempfile
import traceback
from pathlib import Path
from typing import Any

import torch
from ray import tune
from ray.tune import Checkpoint

from ctxtune.errors import RunFailed
from ctxtune.training import load_checkpoint, save_checkpoint
from ctxtune.training.checkpoints import STATE_FILE
from ctxtune.training.session import Report
from ctxtune.tuning.specs import RunSpec, open_session

FAILURE = "failure"
MESSAGE = "message"
BY_CLASS = "by_class"


def run_trial(config: dict[str, Any]) -> None:
    """Train the run of ``config["spec"]``, from its last checkpoint if there is one.

    What is wrong with the run itself (a loss that is not finite, no memory, an error in a user's loss) is reported as a
    failure and not tried again; a process or machine that dies is, by Ray, from the last checkpoint.
    """
    spec = RunSpec.model_validate(config["spec"])
    torch.set_num_threads(max(1, int(config["threads"])))
    device = "cuda" if config["gpus"] and torch.cuda.is_available() else "cpu"
    session = None
    try:
        session = open_session(spec, device=device, cache_dir=config["cache_dir"] and Path(config["cache_dir"]))
        resume_from = tune.get_checkpoint() or _earlier(config)
        if resume_from is not None:
            with resume_from.as_directory() as folder:
                session.load_state_dict(load_checkpoint(Path(folder) / STATE_FILE))
        session.run(_send)
    except RunFailed as error:
        _fail(session.epoch if session else 0, error.reason, str(error))
    except Exception as error:  # noqa: BLE001 - whatever a user's model or loss raises belongs to this run alone
        _fail(session.epoch if session else 0, "error", f"{error}\n{traceback.format_exc()}")
    finally:
        if session is not None:
            session.close()
        # The process may be reused for the next run.
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()


def _send(report: Report) -> None:
    with tempfile.TemporaryDirectory(prefix="ctxtune-") as folder:
        save_checkpoint(report.state(), Path(folder) / STATE_FILE)
        told = report.metrics if report.by_class is None else {**report.metrics, BY_CLASS: report.by_class}
        tune.report(told, checkpoint=Checkpoint.from_directory(folder))


def _fail(epoch: int, reason: str, message: str) -> None:
    tune.report({"epoch": float(epoch), FAILURE: reason, MESSAGE: message})


def _earlier(config: dict[str, Any]) -> Checkpoint | None:
    """The checkpoint of an earlier process of this sweep; None where its storage no longer has it."""
    if not config["resume_from"]:
        return None
    checkpoint = Checkpoint(config["resume_from"])
    with contextlib.suppress(FileNotFoundError, OSError), checkpoint.as_directory():
        return checkpoint
    return None
