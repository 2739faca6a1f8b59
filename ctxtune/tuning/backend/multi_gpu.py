"""A run on several GPUs: a process for each, started by Ray Train, which reports to Ray Tune as one run.

The processes see one global batch (`ctxtune.training.ProcessGroup`), so the result is that of one GPU with the same batch.
"""

import os
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import ray
import torch
from ray import train, tune
from ray.train import CheckpointConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.backend import Backend
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.tune.integration.ray_train import TuneReportCallback

from ctxtune.errors import CtxtuneError, RunFailed
from ctxtune.results.costs import Rate
from ctxtune.training import load_checkpoint, save_checkpoint
from ctxtune.training.checkpoints import STATE_FILE, State
from ctxtune.training.process_group import ProcessGroup
from ctxtune.training.trainer import Report
from ctxtune.tuning.backend.checkpoints import KEPT_CHECKPOINTS
from ctxtune.tuning.backend.cluster import process_count
from ctxtune.tuning.backend.devices import LOGICAL_GPUS, run_device
from ctxtune.tuning.backend.local_ray import LOCAL_RAY
from ctxtune.tuning.backend.private_folders import private_folder, remove_abandoned
from ctxtune.tuning.backend.storage import checkpoint_address
from ctxtune.tuning.backend.trial import CHECKPOINT, disk_is_full, told
from ctxtune.tuning.record.run_spec import RunSpec
from ctxtune.tuning.record.trial_report import DISK_FULL, TrialFailure
from ctxtune.tuning.run_trainer import open_trainer


def run_multi_gpu(config: dict[str, Any]) -> None:
    """Train the run of ``config["spec"]`` by several processes, from its last checkpoint if there is one.

    As `run_trial`: what is wrong with the run itself is reported as a failure; a process that dies ends all of them, and
    Ray Tune starts this function again, which goes on from the last checkpoint.
    """
    count = process_count(config["gpus"])
    trainer = TorchTrainer(
        _train_share,
        train_loop_config=config,
        torch_config=_torch_config(),
        scaling_config=ScalingConfig(
            num_workers=count,
            use_gpu=True,
            resources_per_worker={"CPU": config["threads"] / count, "GPU": 1},
        ),
        run_config=RunConfig(
            # The same after a restart: Ray Train then finds its own checkpoints.
            name=f"{tune.get_context().get_experiment_name()}-{config['key']}",
            storage_path=config["storage"],
            checkpoint_config=CheckpointConfig(num_to_keep=KEPT_CHECKPOINTS),
            callbacks=[_Reports()],  # type: ignore[list-item]
        ),
    )
    try:
        trainer.fit()
    except WorkerGroupError as error:
        reason, message = _of_the_run_itself(error)
        if not reason:
            raise
        tune.report(TrialFailure(0, reason, message).plain())


def _torch_config() -> TorchConfig:
    # Ray Train takes nccl for GPUs; this process, on the head, may see none.
    backend = "gloo" if os.environ.get(LOGICAL_GPUS) else "nccl"
    return _OnThisMachine(backend) if os.environ.get(LOCAL_RAY) else TorchConfig(backend)


class _OnThisMachine(TorchConfig):
    """Processes of one machine find each other by a file: torch's server for that listens to everybody, without a token."""

    @property
    def backend_cls(self) -> type[Backend]:
        """What Ray Train calls when the processes are up."""
        return _MeetingByFile


class _MeetingByFile(TorchConfig().backend_cls):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        """Join the processes to one group."""
        file = Path(os.environ[LOCAL_RAY]) / f"meeting-{uuid.uuid4().hex}"
        size = len(worker_group)
        joined = [
            worker_group.execute_single_async(rank, _join_group, backend_config.backend, file, rank, size)
            for rank in range(size)
        ]
        ray.get(joined)


def _join_group(backend: str, file: Path, rank: int, size: int) -> None:
    torch.distributed.init_process_group(
        backend, init_method=file.as_uri(), rank=rank, world_size=size, timeout=timedelta(minutes=30)
    )


def _of_the_run_itself(error: WorkerGroupError) -> tuple[str, str]:
    """Reason and message where a process met an error of the run; empty where processes or machines died."""
    causes = [getattr(failure, "_base_exc", None) for failure in error.worker_failures.values()]
    for cause in causes:
        if disk_is_full(cause):
            return DISK_FULL, f"a checkpoint cannot be written: {str(cause).splitlines()[0]}"
    for cause in causes:
        if isinstance(cause, RunFailed):
            return cause.reason, str(cause)
    for cause in causes:
        # Processes whose partner has died meet an error of the connection, which says nothing of the run.
        if isinstance(cause, Exception) and not isinstance(cause, torch.distributed.DistError):
            return "error", str(error)
    return "", ""


class _Reports(TuneReportCallback):
    """The first process's reports to Ray Tune, with the address of their checkpoint."""

    def after_report(self, run_context: object, metrics: list[dict[str, object]], checkpoint: object) -> None:
        """Called by Ray Train once all processes have reported."""
        address = {} if checkpoint is None else {CHECKPOINT: checkpoint_address(checkpoint)}
        super().after_report(run_context, [{**metrics[0], **address}], None)  # type: ignore[arg-type]


def _train_share(config: dict[str, Any]) -> None:
    """One process's part of the run."""
    began = time.perf_counter()
    remove_abandoned()
    context = train.get_context()
    world = ProcessGroup(context.get_world_rank(), context.get_world_size())
    rate = Rate(config["gpus"], config.get("price"))
    cores = max(1, int(config["threads"] / world.size))
    torch.set_num_threads(cores)
    device = get_device() if run_device(config["gpus"]) == "cuda" else torch.device("cpu")
    cache_dir = config["cache_dir"] and Path(config["cache_dir"])
    spec = RunSpec.model_validate_json(config["spec"])
    trainer = open_trainer(spec, device=device, cache_dir=cache_dir, cores=cores, world=world)
    try:
        state = _state_to_resume(config["resume_from"])
        if state is not None:
            trainer.load_state_dict(state)
        prepared = time.perf_counter() - began
        trainer.run(lambda report: _send(report, rate.of(prepared + report.metrics["time/seconds"]), world))
    finally:
        trainer.close()


def _send(report: Report, costs: dict[str, float], world: ProcessGroup) -> None:
    if world.rank > 0:
        train.report(report.metrics)
        return
    with private_folder() as folder:
        (checkpoint := folder / "checkpoint").mkdir()
        save_checkpoint(report.state(), checkpoint / STATE_FILE)
        train.report(told(report, costs), checkpoint=train.Checkpoint.from_directory(checkpoint))


def _state_to_resume(earlier: Sequence[str]) -> State | None:
    """The newest state that can be read: of this sweep's process, then of an earlier one; None: none."""
    given = train.get_checkpoint()
    for checkpoint in [*([given] if given else []), *map(train.Checkpoint, earlier)]:
        with suppress(OSError, CtxtuneError), checkpoint.as_directory() as folder:
            return load_checkpoint(Path(folder) / STATE_FILE)
    return None
