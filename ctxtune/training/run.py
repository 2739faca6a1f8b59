"""One run, from initial weights to the score of the last epoch."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ctxtune.config.trial import TrialSettings
from ctxtune.data import EvaluationImages, Part, TrainingImages, build_sampler
from ctxtune.errors import CtxtuneError
from ctxtune.losses import TrainingLoss
from ctxtune.models import build_model
from ctxtune.retrieval import RetrievalScores, score
from ctxtune.training.embedding import embed
from ctxtune.training.health import CHECK_EVERY, FiniteFlag, check_embeddings, check_scale, memory_errors_named
from ctxtune.training.optimization import (
    all_parameters,
    build_optimizer,
    learning_rate_factor,
    set_learning_rates,
)
from ctxtune.training.parts import RunParts, scaled_sampler
from ctxtune.training.precision import autocast, gradient_scaler, resolve_precision

TRAIN_PROBE_IMAGES = 2000
"""Most images that train-class Recall@1 is taken over; whole classes, the first ones in a seeded order."""


@dataclass(frozen=True)
class Progress:
    """Where a run stands, for a display."""

    epoch: int
    epochs: int
    images_per_second: float
    terms: dict[str, float]


class Run:
    """Model, loss, optimiser and data of one run.

    Everything random follows from ``seed``: initial weights, batches and augmentation; the last two are pure functions
    of seed, epoch and batch, so that a run resumed from `state_dict` goes on bit by bit as if it had never stopped.

    Args:
        trial: the resolved configuration.
        parts: what to learn from and what to score.
        seed: from `ctxtune.config.stage_seed`.
        device: where to train.
        cache_dir: where image caches live; None for the default.
        load_pretrained: false where a state is loaded at once: pretrained weights are then not fetched.
    """

    def __init__(
        self,
        trial: TrialSettings,
        parts: RunParts,
        *,
        seed: int,
        device: torch.device | str = "cpu",
        cache_dir: Path | None = None,
        load_pretrained: bool = True,
    ) -> None:
        self.trial = trial = scaled_sampler(trial, parts)
        self.parts = parts
        self.seed = seed
        self.device = torch.device(device)
        self.precision = resolve_precision(trial.precision, self.device)
        self.epoch = 0
        self.steps = 0
        self._cache_dir = cache_dir
        _seed_everything(seed, trial.deterministic)
        self.model = build_model(trial.model, image_size=trial.image.train_crop, load_pretrained=load_pretrained)
        self.model.to(self.device).to(memory_format=torch.channels_last)
        classes, labels = np.unique(parts.fit.labels, return_inverse=True)
        self._labels = torch.from_numpy(labels.astype(np.int64))
        self.loss = TrainingLoss(
            trial.loss,
            trial.regularizer,
            num_classes=len(classes),
            embedding_dim=self.model.training_dim,
        ).to(self.device)
        self.optimizer = build_optimizer(trial.optimizer, self.model, self.loss)
        self.scaler = gradient_scaler(self.precision, self.device)
        self._sampler = build_sampler(trial.sampler, parts.fit.labels, parts.fit.super_labels, seed)
        self._images = TrainingImages(parts.fit, trial.image, device=self.device, seed=seed, cache_dir=cache_dir)
        self._evaluation_images: dict[str, EvaluationImages] = {}
        self._finite = FiniteFlag(self.device)
        self.model.train()

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

    def advance(self, on_epoch: Callable[[Progress], None] | None = None) -> dict[str, float]:
        """Train until the next evaluation is due.

        Returns:
            ``train/...`` terms (mean over the last epoch) and ``time/images_per_second`` of these epochs.

        Raises:
            RunFailed: the loss is not finite, or the device's memory does not suffice.
        """
        target, started, images = self.next_evaluation, time.perf_counter(), 0
        terms: dict[str, float] = {}
        while self.epoch < target:
            terms = self._train_epoch()
            images += self._sampler.batches_per_epoch * self.trial.sampler.batch_size
            if on_epoch:
                rate = images / (time.perf_counter() - started)
                on_epoch(Progress(self.epoch, self.epochs, rate, terms))
        metrics = {f"train/{name}": value for name, value in terms.items()}
        metrics["time/images_per_second"] = images / (time.perf_counter() - started)
        metrics["train/steps"] = float(self.steps)
        if self.device.type == "cuda":
            metrics["gpu/memory_gib"] = torch.cuda.max_memory_allocated(self.device) / 2**30
        return metrics

    def evaluate(self) -> dict[str, float]:
        """Score the embedding on the query (and gallery) part.

        Returns:
            ``validation/...`` or ``test/...``: recall_at_K, map_at_r, r_precision, each in [0, 1].

        Raises:
            RunFailed: the embeddings are not finite or have collapsed.
        """
        scores = self.score_part(self.parts.query, self.parts.gallery)
        return named_scores(scores, self.parts.scored_as)

    def train_class_recall(self) -> float:
        """Recall@1 among images of the classes that were trained on: far above validation means overfitting."""
        return self.score_part(_probe(self.parts.fit, self.seed), None).recall_at[1]

    def score_part(self, query: Part, gallery: Part | None) -> RetrievalScores:
        """Scores of any part under the present weights."""
        embeddings, labels = self._embed(query)
        recall_at = self.trial.evaluation.recall_at
        if gallery is None:
            return score(embeddings, labels, recall_at=recall_at)
        return score(embeddings, labels, *self._embed(gallery), recall_at=recall_at)

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs to go on exactly: tensors and plain data only."""
        return {
            "config": self.trial.tree(),
            "seed": self.seed,
            "epoch": self.epoch,
            "steps": self.steps,
            "model": self.model.state_dict(),
            "loss": self.loss.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state.

        Raises:
            CtxtuneError: the state belongs to another configuration or seed.
        """
        theirs = {**state["config"], "dataset": None}
        ours = {**self.trial.tree(), "dataset": None}
        if theirs != ours or state["seed"] != self.seed:
            raise CtxtuneError("the checkpoint belongs to another configuration or seed; give the new run another name")
        self.epoch, self.steps = state["epoch"], state["steps"]
        self.model.load_state_dict(state["model"])
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
        """Seconds of one training step: the median of a few, after one to warm up. The run is spoilt for training."""
        order, seconds = np.resize(self._sampler.epoch(0), (steps + 1, self.trial.sampler.batch_size)), []
        started = time.perf_counter()
        for images, indices in self._images.batches(order, 0):
            terms = self._step(images, self._labels[indices].to(self.device))
            float(next(iter(terms.values())))  # wait for the device
            seconds.append(time.perf_counter() - started)
            started = time.perf_counter()
        return float(np.median(seconds[1:]))

    def close(self) -> None:
        """Stop background readers and let go of the images."""
        self._images.close()
        self._evaluation_images.clear()

    def _train_epoch(self) -> dict[str, float]:
        schedule = self.trial.schedule
        warming = self.epoch < schedule.head_warmup_epochs
        if schedule.head_warmup_epochs:
            self.model.set_backbone_trainable(not warming)
        order = self._sampler.epoch(self.epoch)
        sums: dict[str, Tensor] = {}
        with memory_errors_named("sampler.batch_size", self.trial.sampler.batch_size):
            for batch, (images, indices) in enumerate(self._images.batches(order, self.epoch)):
                set_learning_rates(self.optimizer, learning_rate_factor(schedule, self.epoch + batch / len(order)))
                terms = self._step(images, self._labels[indices].to(self.device, non_blocking=True))
                for name, value in terms.items():
                    sums[name] = sums[name] + value if name in sums else value
                if (batch + 1) % CHECK_EVERY == 0:
                    self._finite.check(self.epoch)
                    check_scale(self.scaler, self.epoch)
        self._finite.check(self.epoch)
        check_scale(self.scaler, self.epoch)
        self.epoch += 1
        return {name: float(value) / len(order) for name, value in sums.items()}

    def _step(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        clip = self.trial.optimizer.gradient_clip
        with autocast(self.precision, self.device):
            embeddings = self.model.project(self.model(images.to(memory_format=torch.channels_last)))
        loss, terms = self.loss(embeddings.float(), labels)
        self._finite.update(loss, embeddings)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        if clip is not None:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(all_parameters(self.optimizer), clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.steps += 1
        return terms

    def _embed(self, part: Part) -> tuple[Tensor, np.ndarray]:
        """Embeddings and labels of the images of a part that can be read."""
        if part.name not in self._evaluation_images:
            self._evaluation_images[part.name] = EvaluationImages(
                part, self.trial.image, device=self.device, cache_dir=self._cache_dir
            )
        embeddings, kept = embed(
            self.model,
            self._evaluation_images[part.name],
            batch_size=self.trial.evaluation.batch_size or 4 * self.trial.sampler.batch_size,
            precision=self.precision,
            device=self.device,
        )
        check_embeddings(embeddings, self.epoch)
        return embeddings, part.labels[kept.numpy()]


def named_scores(scores: RetrievalScores, prefix: str) -> dict[str, float]:
    """Scores under the names that YAML, MLflow and reports use."""
    named = {f"{prefix}/recall_at_{k}": value for k, value in scores.recall_at.items()}
    return {**named, f"{prefix}/map_at_r": scores.map_at_r, f"{prefix}/r_precision": scores.r_precision}


def _probe(fit: Part, seed: int) -> Part:
    classes, counts = np.unique(fit.labels, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(classes))
    taken = order[: max(2, int(np.searchsorted(np.cumsum(counts[order]), TRAIN_PROBE_IMAGES)))]
    return fit.select(np.flatnonzero(np.isin(fit.labels, classes[taken])), "train_probe")


def _seed_everything(seed: int, deterministic: bool) -> None:
    """Also what a reused process still holds from the run before it: the deterministic switch and the CUDA peak."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
