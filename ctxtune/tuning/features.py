"""Features of a frozen backbone, computed on this machine before a stage whose runs share them, with all its cores.

In a process of its own: a driver that has used a GPU would keep hundreds of MiB of its memory. On a cluster the first run
on each node computes them, the others there wait for it.
"""

import multiprocessing
import sys
from multiprocessing.connection import Connection

import torch

from ctxtune.config import TrialSettings
from ctxtune.consoles import Console
from ctxtune.errors import CtxtuneError, DataError
from ctxtune.signals import signals_for_this_process
from ctxtune.training.features_ahead import Side, features_missing, make_features
from ctxtune.training.progress_bars import progress_bars
from ctxtune.tuning.backend.cluster import RunResources
from ctxtune.tuning.callbacks import Watcher, end_stage
from ctxtune.tuning.record.recorder import Recorder

LOOK_SECONDS = 0.2


def features_ahead(
    trial: TrialSettings, side: Side, resources: RunResources, recorder: Recorder, watcher: Watcher
) -> None:
    """Compute the features that runs of a configuration need and that are not kept yet; nothing where there are none.

    Raises:
        ConfigError, DataError: the weights or the data cannot be had, or the disk is too small.
        SweepStopped: it was interrupted.
    """
    device = torch.device("cuda" if resources.gpus and torch.cuda.is_available() else "cpu")
    if not features_missing(trial, side, device):
        return
    watcher.on_note(f"computing the features of {trial.model.backbone} on the {side} side, once for all runs")
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    child = context.Process(target=_compute, args=(trial.model_dump_json(), side, str(device), sending))
    with signals_for_this_process():
        child.start()
    sending.close()
    while not receiving.poll(LOOK_SECONDS) and child.is_alive():
        if recorder.stop:
            child.terminate()
    child.join()
    if recorder.stop:
        end_stage(recorder)
        return
    try:
        error = receiving.recv()
    except EOFError:
        error = DataError(f"computing the features of {trial.model.backbone} failed; the lines above say why")
    if error is not None:
        raise error


def _compute(trial: str, side: Side, device: str, answer: Connection) -> None:
    try:
        with progress_bars(Console(stderr=True, markup=False)) as reporter:
            make_features(TrialSettings.model_validate_json(trial), side, torch.device(device), reporter=reporter)
        answer.send(None)
    except CtxtuneError as error:
        answer.send(error)
    except KeyboardInterrupt:
        sys.exit(130)  # the driver, which was interrupted too, says so
