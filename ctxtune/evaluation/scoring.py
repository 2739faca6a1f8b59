"""Scores of a checkpoint's model on a split of a data set, and its export."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ctxtune.config import TrialSettings
from ctxtune.data import Benchmark, EvaluationImages, Split, load_dataset, split
from ctxtune.errors import ConfigError
from ctxtune.evaluation.checkpoint import Checkpoint
from ctxtune.float32_products import allow_tf32
from ctxtune.models import EmbeddingModel
from ctxtune.models.export import export_model
from ctxtune.models.preprocessing import Preprocessing
from ctxtune.retrieval import RetrievalScores, score
from ctxtune.training.embedding import concatenated, embed
from ctxtune.training.health import check_embeddings
from ctxtune.training.precision import resolve_precision


@dataclass(frozen=True)
class Scored:
    """One run's model on one split.

    Attributes:
        fold: the validation fold that the run left out; None: none.
        query: the images that were scored; ``gallery``: what they were searched in, None: each other.
        embeddings: (queries, embedding_dim) on the CPU, not normalized; ``gallery_embeddings`` alike.
        left_out: images that cannot be read.
    """

    fold: int | None
    query: Split
    gallery: Split | None
    embeddings: torch.Tensor
    gallery_embeddings: torch.Tensor | None
    scores: RetrievalScores
    left_out: int


def score_model(
    checkpoint: Checkpoint,
    model: EmbeddingModel,
    benchmark: Benchmark,
    split_name: str,
    index: int,
    device: torch.device,
    recall_at: tuple[int, ...],
) -> Scored:
    """Embed and score a split ("validation", "train" or "test") of a benchmark.

    Raises:
        ConfigError: there is no such split, or a Recall@K that it cannot have.
        CtxtuneError: data that cannot be read; embeddings that are not finite, or all alike.
    """
    fold = None if checkpoint.all_classes else checkpoint.folds[index]
    query, gallery = _query_and_gallery(checkpoint, benchmark, split_name, fold)
    epoch = checkpoint.runs[index]["epoch"]
    images = len(query) + (len(gallery) if gallery else 0)
    query, embeddings = _embed(checkpoint.trial, model, query, device, epoch)
    found = None
    if gallery is not None:
        gallery, found = _embed(checkpoint.trial, model, gallery, device, epoch)
    left_out = images - len(query) - (len(gallery) if gallery else 0)
    return _scored(fold, query, gallery, embeddings, found, left_out, device, recall_at)


def score_concatenated(each: Sequence[Scored], device: torch.device, recall_at: tuple[int, ...]) -> Scored:
    """The scores of several models' embeddings of one split, L2-normalized and concatenated.

    Raises:
        ConfigError: a Recall@K that the split cannot have.
    """
    first = each[0]
    galleries = [one.gallery_embeddings for one in each if one.gallery_embeddings is not None]
    embeddings, found = concatenated([one.embeddings for one in each]), concatenated(galleries) if galleries else None
    return _scored(None, first.query, first.gallery, embeddings, found, first.left_out, device, recall_at)


def _scored(
    fold: int | None,
    query: Split,
    gallery: Split | None,
    embeddings: torch.Tensor,
    found: torch.Tensor | None,
    left_out: int,
    device: torch.device,
    recall_at: tuple[int, ...],
) -> Scored:
    try:
        scores = score(
            embeddings.to(device),
            query.labels,
            None if found is None else found.to(device),
            None if gallery is None else gallery.labels,
            recall_at=recall_at,
            per_query=True,
            per_class=True,
        )
    except ValueError as error:
        raise ConfigError(f"{query.name} cannot be scored: {error}") from None
    return Scored(fold, query, gallery, embeddings, found, scores, left_out)


def export_checkpoint(checkpoint: Checkpoint, model: EmbeddingModel, out: Path, benchmark: Benchmark | None) -> None:
    """Write the embedding model with its preprocessing.

    Where neither the image settings nor the data set's fix the size of prepared images, it is read off the data.

    Raises:
        ConfigError: see `ctxtune.models.export.export_model`.
    """
    image = checkpoint.trial.images
    size: int | tuple[int, int] | None = None
    if image.test_crop is None and image.test_resize is None:
        size = checkpoint.trial.dataset.image_size
    if image.test_crop is None and not isinstance(image.test_resize, tuple) and size is None:
        train = (benchmark or load_dataset(checkpoint.trial.dataset)).train
        first = EvaluationImages(train.select([0], f"{train.name}/first"), image)
        height, width = next(iter(first.batches(1)))[0].shape[-2:]
        first.close()
        size = (height, width)
    preparation = Preprocessing(
        resize=image.test_resize,
        crop=image.test_crop,
        interpolation=image.filter,
        mean=image.pixel_mean,
        deviation=image.pixel_deviation,
    )
    try:
        export_model(model, out, preprocessing=preparation, image_size=size)
    except OSError as error:
        raise ConfigError(f"--export {out}: cannot be written ({error.strerror or error})") from None


def named_scores(scores: RetrievalScores) -> dict[str, float]:
    """The scores by the names that YAML, MLflow and JSON use, without the split in front."""
    recall = {f"recall_at_{k}": value for k, value in scores.recall_at.items()}
    return recall | {
        "map_at_r": scores.map_at_r,
        "r_precision": scores.r_precision,
        "mean_reciprocal_rank": scores.mean_reciprocal_rank,
    }


def mean_scores(scored: list[Scored]) -> dict[str, float]:
    """The mean over the runs of a checkpoint."""
    each = [named_scores(one.scores) for one in scored]
    return {name: float(np.mean([scores[name] for scores in each])) for name in each[0]}


def _query_and_gallery(
    checkpoint: Checkpoint, benchmark: Benchmark, split_name: str, fold: int | None
) -> tuple[Split, Split | None]:
    """Query and gallery (None: the query split itself) of what is to be scored. Labels are as published, without noise."""
    if split_name == "test":
        if benchmark.test is not None:
            return benchmark.test, None
        if benchmark.query is None or benchmark.gallery is None:
            raise ConfigError(f"{benchmark.name} has neither a test split nor query and gallery")
        return benchmark.query, benchmark.gallery
    if fold is None:
        if split_name == "train":
            return benchmark.train, None
        raise ConfigError(
            f"{checkpoint.path} is of a confirmation: it was trained on all train classes and has no validation fold; "
            "score it with --split test, or on the classes it has seen with --split train"
        )
    chosen = split(benchmark.train, checkpoint.validation)[fold]
    return (chosen.validation if split_name == "validation" else chosen.fit), None


def _embed(
    trial: TrialSettings, model: EmbeddingModel, images_of: Split, device: torch.device, epoch: int
) -> tuple[Split, torch.Tensor]:
    """The images of a split that can be read, and their embeddings, in the numbers that training's evaluations took."""
    allow_tf32(trial.tf32)
    images = EvaluationImages(images_of, trial.images, device=device)
    try:
        embeddings, kept = embed(
            model,
            images,
            batch_size=trial.evaluation.batch_size or 4 * trial.sampler.batch_size,
            precision=resolve_precision(trial.precision, device),
            device=device,
        )
    finally:
        images.close()
    check_embeddings(embeddings, epoch)
    return images_of.select(kept.numpy(), images_of.name), embeddings
