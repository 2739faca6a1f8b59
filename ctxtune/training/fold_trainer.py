"""One run, from initial weights to the score of the last epoch."""

import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ctxtune.config.trial import TrialSettings
from ctxtune.data import Split, build_sampler
from ctxtune.data.features import Reporter
from ctxtune.data.images import reading_threads
from ctxtune.errors import ConfigError, CtxtuneError
from ctxtune.float32_products import allow_tf32
from ctxtune.losses import TrainingLoss
from ctxtune.models import EmbeddingModel, build_head, build_model
from ctxtune.retrieval import RetrievalScores
from ctxtune.training.averaging import AveragedModel
from ctxtune.training.backbone_features import check_frozen, frozen_identity
from ctxtune.training.checkpoints import State, trained_settings
from ctxtune.training.evaluating import Evaluation, Evaluator
from ctxtune.training.health import CHECK_EVERY, SMALLER_MODEL, check_scale, memory_errors_named
from ctxtune.training.inputs import FeatureInputs, Reading, TrainingInputs, open_inputs
from ctxtune.training.optimization import build_optimizer, learning_rate_factor, set_learning_rates
from ctxtune.training.precision import gradient_scaler, resolve_precision
from ctxtune.training.process_group import ProcessGroup
from ctxtune.training.progress import EvaluationInterval, Progress
from ctxtune.training.splits import RunSplits, scaled_sampler, train_probe
from ctxtune.training.step import TrainingStep

CUBLAS_WORKSPACE = ":4096:8"
"""Eight buffers of 4 MiB: with a workspace set so cuBLAS's results repeat (its manual, "Results reproducibility")."""


class FoldTrainer:
    """Model, loss, optimizer and data of one run.

    Everything random follows from ``seed``: initial weights, batches and augmentation; the last two are pure functions
    of seed, epoch and batch, so that a run resumed from `state_dict` goes on bit by bit as if it had never stopped.

    Args:
        trial: the resolved configuration.
        splits: what to learn from and what to score.
        seed: from `ctxtune.config.stage_seed`.
        device: where to train.
        cache_dir: where image caches live; None for the default.
        cores: CPU cores that the run may use to read images; None: all of this process.
        load_pretrained: false where a state is loaded at once: pretrained weights are then not fetched.
        reporter: told of the progress where features of a frozen backbone are computed.
        world: the processes that train this run together; each makes its own `FoldTrainer`, with the same arguments otherwise.

    Raises:
        ConfigError: the settings do not go together, or the pretrained weights cannot be had.
        DataError: the images cannot be had.
        RunFailed: the device's memory does not suffice for the model.
    """

    def __init__(
        self,
        trial: TrialSettings,
        splits: RunSplits,
        *,
        seed: int,
        device: torch.device | str = "cpu",
        cache_dir: Path | None = None,
        cores: int | None = None,
        load_pretrained: bool = True,
        world: ProcessGroup | None = None,
        reporter: Reporter | None = None,
    ) -> None:
        self.trial = trial = scaled_sampler(trial, splits)
        self.splits, self.seed = splits, seed
        self.device = torch.device(device)
        self.world = world or ProcessGroup()
        _check_share(trial, self.world)
        self.precision = resolve_precision(trial.precision, self.device)
        self._weights = frozen_identity(trial.model)
        self.epoch = self.steps = 0
        self._interval = EvaluationInterval()
        self._sampler = build_sampler(trial.sampler, splits.fit.labels, splits.fit.super_labels, seed)
        workers = reading_threads(None, trial.images, self.device, cores)
        with memory_errors_named("model.backbone", trial.model.backbone, SMALLER_MODEL):
            _seed_everything(seed, trial, self.device)
            reading = Reading(self.device, seed, cache_dir, workers, self.precision, self.world, reporter)
            self._inputs = open_inputs(trial, reading)
            self.model = self._build_model(load_pretrained)
            classes, labels = np.unique(splits.fit.labels, return_inverse=True)
            self._labels = torch.from_numpy(labels.astype(np.int64))
            self.loss = self._build_loss(len(classes))
            self.averaged = None if trial.optimizer.ema is None else AveragedModel(self.model, trial.optimizer.ema)
            self.optimizer = build_optimizer(trial.optimizer, self.model, self.loss)
            self.scaler = gradient_scaler(self.precision, self.device)
            self.step = self._build_step()
        self._images = self._open_images()
        self._evaluator = Evaluator(
            trial, splits, self._inputs.evaluation, device=self.device, precision=self.precision, world=self.world
        )
        self.model.train()

    def _build_model(self, load_pretrained: bool) -> EmbeddingModel:
        trial = self.trial
        if isinstance(self._inputs, FeatureInputs):
            return build_head(trial.model, self._inputs.channels(self.splits.fit)).to(self.device)
        # What is frozen is in no checkpoint.
        load_pretrained = load_pretrained or trial.model.train != "full"
        model = build_model(trial.model, image_size=trial.image_size, load_pretrained=load_pretrained)
        model.to(self.device).to(memory_format=torch.channels_last)
        if self.world.is_distributed and self.device.type == "cuda" and trial.model.batch_norm == "trained":
            # Statistics over the whole batch, as one GPU would take them.
            return torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return model

    def _open_images(self) -> TrainingInputs:
        return self._inputs.training(self.splits.fit)

    def _build_step(self) -> TrainingStep:
        return TrainingStep(
            self.trial,
            self.model,
            self.loss,
            self.optimizer,
            self.scaler,
            precision=self.precision,
            device=self.device,
            world=self.world,
        )

    def _build_loss(self, num_classes: int) -> TrainingLoss:
        trial, width = self.trial, self.model.training_dim
        try:
            loss = TrainingLoss(
                trial.loss,
                trial.regularizer,
                num_classes=num_classes,
                embedding_dim=width,
                num_images=len(self.splits.fit),
            )
        except ValueError as error:
            raise ConfigError(f"loss {trial.loss.name}: {error}") from None
        return loss.to(self.device)

    @property
    def epochs(self) -> int:
        """Epochs in all."""
        return self.trial.schedule.epochs

    @property
    def finished(self) -> bool:
        """Whether the last epoch is done."""
        return self.epoch >= self.epochs

    @property
    def next_evaluation(self) -> int:
        """The epoch after which the embedding is scored next."""
        every = self.trial.evaluation.every
        return min((self.epoch // every + 1) * every, self.epochs)

    @property
    def scored_model(self) -> EmbeddingModel:
        """The model that evaluations score: the averaged one where there is one (`optimizer.ema`)."""
        return self.model if self.averaged is None else self.averaged.model

    def advance(
        self,
        on_progress: Callable[[Progress], None] | None = None,
        *,
        until: int | None = None,
        on_epoch: Callable[[], None] | None = None,
    ) -> dict[str, float]:
        """Train until the next evaluation is due, or until so many epochs are done (None where they are already).

        Args:
            on_progress: called after every epoch, and within long ones every `CHECK_EVERY` batches.
            until: epochs done at the end.
            on_epoch: called after every epoch, for a checkpoint.

        Returns:
            ``train/...`` terms (mean over the last epoch) and ``time/images_per_second`` since the last evaluation.

        Raises:
            RunFailed: the loss is not finite, or the device's memory does not suffice.
        """
        target = self.next_evaluation if until is None else until
        while self.epoch < target:
            self._train_epoch(on_progress)
            if on_epoch:
                on_epoch()
        metrics = {f"train/{name}": value for name, value in self._interval.terms.items()}
        metrics["time/images_per_second"] = self._interval.images_per_second
        metrics["train/steps"] = float(self.steps)
        if self.device.type == "cuda":
            metrics["gpu/memory_gib"] = torch.cuda.max_memory_allocated(self.device) / 2**30
        return metrics

    def evaluate(self) -> dict[str, float]:
        """Score the embedding on the query (and gallery) split.

        Returns:
            ``validation/...`` or ``test/...``: recall_at_K, map_at_r, r_precision, each in [0, 1].

        Raises:
            RunFailed: the embeddings are not finite or have collapsed.
        """
        return self._evaluator.evaluate(self.scored_model, self.epoch)

    def evaluate_in_full(self, shown_queries: int = 0) -> Evaluation:
        """The scores of `evaluate`, of test classes also on subsets, and what each class adds to them.

        Args:
            shown_queries: for so many queries also what is retrieved, with pictures; their images are opened for that.

        Raises:
            RunFailed: the embeddings are not finite or have collapsed.
        """
        return self._evaluator.evaluate_in_full(self.scored_model, self.epoch, shown_queries)

    def evaluate_concatenated(self, others: Sequence["FoldTrainer"], shown_queries: int = 0) -> Evaluation:
        """The scores of this run's model and those of other runs together, on this run's query (and gallery) split.

        Each model's embeddings are L2-normalized, then concatenated (Musgrave et al., "A Metric Learning Reality Check", ECCV
        2020); ``test_separated/...`` are the means of the single models' scores.

        Args:
            others: runs of the same configuration.
            shown_queries: for so many queries also what is retrieved, with pictures.

        Raises:
            RunFailed: the embeddings are not finite or have collapsed.
        """
        models = [run.scored_model for run in (self, *others)]
        return self._evaluator.evaluate_concatenated(models, self.epoch, shown_queries)

    def train_class_recall(self) -> dict[str, float]:
        """Recall@1 among images of the classes that were trained on: far above validation means overfitting.

        By the labels that were learned from; where some of them are wrong, also by the true ones.
        """
        probes = {"": self.splits.fit, "_true_labels": self.splits.true_labels}
        return {
            f"train/recall_at_1{name}": self.score_splits(train_probe(split, self.seed, name), None).recall_at[1]
            for name, split in probes.items()
            if split is not None
        }

    def data_record(self) -> dict[str, float]:
        """What was done to the data of this run: shares of noise and withheld data with their seed; unreadable images."""
        notes = {f"data/{name}": float(v) for name, v in self.splits.fit.notes.items() if isinstance(v, (int, float))}
        return {**notes, "data/unreadable_images": float(len(self._images.unreadable))}

    def score_splits(self, query: Split, gallery: Split | None) -> RetrievalScores:
        """Scores of any split under the present weights."""
        return self._evaluator.score_splits(self.scored_model, self.epoch, query, gallery)

    def state_dict(self) -> dict[str, object]:
        """All that `load_state_dict` needs to go on exactly: tensors and plain data only."""
        return {
            "config": self.trial.tree(),
            "seed": self.seed,
            "epoch": self.epoch,
            "steps": self.steps,
            "interval": dataclasses.asdict(self._interval),
            "model": self.model.trained_state(),
            "averaged": None if self.averaged is None else self.averaged.model.trained_state(),
            "weights": self._weights,
            "loss": self.loss.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }

    def load_state_dict(self, state: State) -> None:
        """Go on from a state.

        Raises:
            CtxtuneError: the state belongs to another configuration or seed.
        """
        theirs = {**trained_settings(state).tree(), "dataset": None}
        ours = {**self.trial.tree(), "dataset": None}
        if theirs != ours or state["seed"] != self.seed:
            raise CtxtuneError("the checkpoint belongs to another configuration or seed; give the new run another name")
        check_frozen(state, self.trial.model)
        self.epoch, self.steps = state["epoch"], state["steps"]
        self._interval = EvaluationInterval(**state.get("interval", {}))
        self.model.load_trained_state(state["model"])
        if self.averaged is not None:
            self.averaged.model.load_trained_state(state["averaged"])
        self.loss.load_state_dict(state["loss"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["rng"].cpu())
        if state["cuda_rng"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"].cpu(), self.device)

    @property
    def batches_per_epoch(self) -> int:
        """Batches in an epoch."""
        return self._sampler.batches_per_epoch

    def time_step(self, steps: int = 3) -> float:
        """Seconds of one training step: the median of a few, after one to warm up. The run is spoilt for training.

        Raises:
            RunFailed: the device's memory does not suffice.
        """
        order, seconds = np.resize(self._sampler.epoch(0), (steps + 1, self.trial.sampler.batch_size)), []
        self.step.prepare()
        started = time.perf_counter()
        with memory_errors_named("sampler.batch_size", self.trial.sampler.batch_size):
            for images, indices in self._images.batches(order, 0):
                terms = self.step(images, self._labels[indices].to(self.device))
                float(next(iter(terms.values())))  # wait for the device
                seconds.append(time.perf_counter() - started)
                started = time.perf_counter()
        return float(np.median(seconds[1:]))

    def close(self) -> None:
        """Stop background readers and let go of the images."""
        self._images.close()
        self._evaluator.close()

    def _train_epoch(self, on_progress: Callable[[Progress], None] | None) -> None:
        schedule, started = self.trial.schedule, time.perf_counter()
        # Kept until the next one begins: another fold may still be training, and the report is due after that.
        before = EvaluationInterval() if self.epoch % self.trial.evaluation.every == 0 else self._interval
        if schedule.head_warmup_epochs:
            self.model.set_backbone_trainable(self.epoch >= schedule.head_warmup_epochs)
        self.step.prepare()
        self.step.seed(self.seed, self.epoch)
        order = self._sampler.epoch(self.epoch)
        sums: dict[str, Tensor] = {}
        with memory_errors_named("sampler.batch_size", self.trial.sampler.batch_size):
            for batch, (images, indices) in enumerate(self._images.batches(order, self.epoch), start=1):
                factor = learning_rate_factor(schedule, self.epoch + (batch - 1) / len(order))
                set_learning_rates(self.optimizer, factor)
                terms = self.step(images, self._labels[indices].to(self.device, non_blocking=True))
                self.steps += 1
                if self.averaged is not None:
                    self.averaged.update(self.model, self.steps)
                for name, value in terms.items():
                    sums[name] = sums[name] + value if name in sums else value
                if batch % CHECK_EVERY == 0 and batch < len(order):
                    self._check_health()
                    self._count(before, order[:batch], sums, started)
                    self._show(on_progress, batch, len(order))
        self._check_health()
        self._count(before, order, sums, started)
        self._share_buffers()
        self.epoch += 1
        self._show(on_progress, 0, len(order))

    def _check_health(self) -> None:
        """Read the flags; waits for the device."""
        self.step.finite.check(self.epoch)
        check_scale(self.scaler, self.epoch)

    def _count(self, before: EvaluationInterval, done: np.ndarray, sums: dict[str, Tensor], started: float) -> None:
        self._interval = EvaluationInterval(
            before.images + done.size,
            before.seconds + time.perf_counter() - started,
            {name: float(value) / len(done) for name, value in sums.items()},
        )

    def _show(self, on_progress: Callable[[Progress], None] | None, batch: int, batches: int) -> None:
        if on_progress:
            rate, terms = self._interval.images_per_second, self._interval.terms
            on_progress(Progress(self.epoch, self.epochs, rate, terms, batch, batches))

    def _share_buffers(self) -> None:
        if self.trial.model.batch_norm == "trained":
            self.world.spread_buffers(self.model)
            if self.averaged is not None:
                self.world.spread_buffers(self.averaged.model)


def _check_share(trial: TrialSettings, world: ProcessGroup) -> None:
    if trial.sampler.batch_size % world.size:
        raise ConfigError(
            f"sampler.batch_size {trial.sampler.batch_size} cannot be shared equally by {world.size} processes"
        )


def _seed_everything(seed: int, trial: TrialSettings, device: torch.device) -> None:
    """Also what a reused process still holds from the run before it: the switches and the CUDA peak."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    if trial.deterministic or torch.are_deterministic_algorithms_enabled():  # the call imports torch's compiler
        torch.use_deterministic_algorithms(trial.deterministic, warn_only=True)
    if trial.deterministic:  # cuBLAS reads it at a process's first product on a GPU
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", CUBLAS_WORKSPACE)
    allow_tf32(trial.tf32)
    if device.type == "cuda":  # and only then: asking would start CUDA, hundreds of MiB for a run on the CPU
        torch.cuda.reset_peak_memory_stats(device)
