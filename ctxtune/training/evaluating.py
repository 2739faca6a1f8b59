"""Scoring an embedding on splits of the data, between the epochs of a run."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ctxtune.config.trial import TrialSettings
from ctxtune.data import Split
from ctxtune.errors import ConfigError, RunFailed
from ctxtune.metric_names import SEPARATED
from ctxtune.models import EmbeddingModel
from ctxtune.retrieval import RetrievalScores, score
from ctxtune.retrieved_images import ShownQuery
from ctxtune.training.by_class import ClassSums, class_sums
from ctxtune.training.embedding import concatenated, embed
from ctxtune.training.health import check_embeddings
from ctxtune.training.inputs import EvaluationInputs, OpenEvaluation
from ctxtune.training.precision import Precision
from ctxtune.training.process_group import ProcessGroup
from ctxtune.training.shown_queries import shown_queries
from ctxtune.training.splits import RunSplits
from ctxtune.training.subsets import subset_scores


@dataclass(frozen=True)
class EmbeddedSplit:
    """The images of a split that can be read, and their embeddings (n, d) on the CPU, not normalised."""

    split: Split
    embeddings: Tensor


Embedded = list[EmbeddedSplit]
"""The query split and, where there is one, the gallery."""


@dataclass(frozen=True)
class Evaluation:
    """All that an evaluation can say.

    Attributes:
        metrics: ``validation/...`` or ``test/...``; of test classes also ``test_subset/...``, the means over random subsets
            of a validation fold's size; of concatenated embeddings ``test_separated/...``, the means of the single models.
        by_class: what each class adds to the scores.
        shown: what is retrieved for a few queries, with pictures; of several processes the first one has them.
    """

    metrics: dict[str, float]
    by_class: ClassSums
    shown: tuple[ShownQuery, ...] = ()


class Evaluator:
    """Scores models on splits of the data, whose images stay open in between.

    Args:
        trial: the resolved configuration.
        splits: what a run learns from and is scored on.
        open_split: opens the images or features of a split, of several processes this one's share; called when it is due.
        precision: a definite one (`resolve_precision`).
        world: the processes that work together; each embeds its share, the first one scores.
    """

    def __init__(
        self,
        trial: TrialSettings,
        splits: RunSplits,
        open_split: OpenEvaluation,
        *,
        device: torch.device,
        precision: Precision,
        world: ProcessGroup,
    ) -> None:
        self.trial, self.splits, self.world = trial, splits, world
        self.device, self.precision = device, precision
        self._open_split = open_split
        self._images: dict[str, EvaluationInputs] = {}

    def evaluate(self, model: EmbeddingModel, epoch: int) -> dict[str, float]:
        """Score the query (and gallery) split; see `FoldTrainer.evaluate`."""
        scores = self.score_splits(model, epoch, self.splits.query, self.splits.gallery)
        return named_scores(scores, self.splits.scored_as)

    def evaluate_in_full(self, model: EmbeddingModel, epoch: int, shown: int) -> Evaluation:
        """Also by class, on random class subsets, and for `shown` queries with pictures; see `FoldTrainer`."""
        embedded = self._embed_both(model, epoch, self.splits.query, self.splits.gallery)
        return self._in_full(embedded, shown)

    def evaluate_concatenated(self, models: Sequence[EmbeddingModel], epoch: int, shown: int) -> Evaluation:
        """As `evaluate_in_full`, by the concatenated embeddings of several models; see `FoldTrainer`."""
        splits = self.splits
        by_model = [self._embed_both(model, epoch, splits.query, splits.gallery) for model in models]
        each = [named_scores(self._score(one, splits.query.name), splits.scored_as + SEPARATED) for one in by_model]
        separated = {name: float(np.mean([scores[name] for scores in each])) for name in each[0]}
        found = self._in_full([_together(parts) for parts in zip(*by_model, strict=True)], shown)
        return replace(found, metrics=found.metrics | separated)

    def _in_full(self, embedded: Embedded, shown: int) -> Evaluation:
        scores = self._score(embedded, self.splits.query.name)
        named = named_scores(scores, self.splits.scored_as) | self._on_subsets(embedded)
        return Evaluation(named, class_sums(scores, self.splits.scored_as), self._shown(embedded, shown))

    def score_splits(self, model: EmbeddingModel, epoch: int, query: Split, gallery: Split | None) -> RetrievalScores:
        """Scores of any split.

        Raises:
            RunFailed: the embeddings are not finite or have collapsed.
        """
        return self._score(self._embed_both(model, epoch, query, gallery), query.name)

    def close(self) -> None:
        """Let go of the images."""
        for images in self._images.values():
            images.close()
        self._images.clear()

    def _embed_both(self, model: EmbeddingModel, epoch: int, query: Split, gallery: Split | None) -> Embedded:
        return [self._embed(model, epoch, split) for split in (query, gallery) if split is not None]

    def _score(self, embedded: Embedded, name: str) -> RetrievalScores:
        scores: RetrievalScores | None = None
        if self.world.rank == 0:
            try:
                scores = score(
                    *(given for each in embedded for given in (each.embeddings, each.split.labels)),
                    recall_at=self.trial.evaluation.recall_at,
                    per_class=True,
                )
            except ValueError as error:
                raise ConfigError(f"{name} cannot be scored (evaluation.recall_at?): {error}") from None
        result: RetrievalScores = self.world.from_first(scores)
        return result

    def _shown(self, embedded: Embedded, count: int) -> tuple[ShownQuery, ...]:
        if not count or self.world.rank != 0:
            return ()
        query, gallery = embedded[0], embedded[1] if len(embedded) > 1 else None
        if gallery is None:
            return shown_queries(query.split, query.embeddings, None, None, count)
        return shown_queries(query.split, query.embeddings, gallery.split, gallery.embeddings, count)

    def _on_subsets(self, embedded: Embedded) -> dict[str, float]:
        if self.splits.scored_as != "test" or self.splits.fold_classes is None:
            return {}
        found: list[dict[str, float]] = []
        if self.world.rank == 0:
            pairs = [(each.embeddings, each.split.labels) for each in embedded]
            subsets = subset_scores(pairs, self.splits.fold_classes, self.trial.evaluation.recall_at)
            found = [named_scores(scores, "test_subset") for scores in subsets]
        found = self.world.from_first(found)
        return {name: float(np.mean([scores[name] for scores in found])) for name in found[0]} if found else {}

    def _embed(self, model: EmbeddingModel, epoch: int, split: Split) -> EmbeddedSplit:
        """The images of a split that can be read, embedded; each process embeds its share."""
        if split.name not in self._images:
            self._images[split.name] = self._open_split(split)
        embeddings, kept = embed(
            model,
            self._images[split.name],
            batch_size=self.trial.evaluation.batch_size or 4 * self.trial.sampler.batch_size,
            precision=self.precision,
            device=self.device,
        )
        if self.world.is_distributed:
            kept = self.world.gather_uneven((kept + self.world.share(len(split)).start).to(self.device)).cpu()
            embeddings = self.world.gather_uneven(embeddings.to(self.device)).cpu()
        check_embeddings(embeddings, epoch)
        return EmbeddedSplit(split.select(kept.numpy(), split.name), embeddings)


def _together(parts: Sequence[EmbeddedSplit]) -> EmbeddedSplit:
    """One split as several models embed it.

    Raises:
        RunFailed: the models could not read the same images.
    """
    if len({len(part.embeddings) for part in parts}) > 1:
        raise RunFailed("error", f"{parts[0].split.name}: an image that one model has seen cannot be read any more")
    return EmbeddedSplit(parts[0].split, concatenated([part.embeddings for part in parts]))


def named_scores(scores: RetrievalScores, prefix: str) -> dict[str, float]:
    """Scores under the names that YAML, MLflow and reports use."""
    named = {f"{prefix}/recall_at_{k}": value for k, value in scores.recall_at.items()}
    return {**named, f"{prefix}/map_at_r": scores.map_at_r, f"{prefix}/r_precision": scores.r_precision}
