"""Scoring an embedding on splits of the data, between the epochs of a run."""

import numpy as np
import torch
from torch import Tensor

from ctxtune.config.trial import TrialSettings
from ctxtune.data import Split
from ctxtune.errors import ConfigError
from ctxtune.models import EmbeddingModel
from ctxtune.retrieval import RetrievalScores, score
from ctxtune.training.by_class import ClassSums, class_sums
from ctxtune.training.embedding import embed
from ctxtune.training.health import check_embeddings
from ctxtune.training.inputs import EvaluationInputs, OpenEvaluation
from ctxtune.training.precision import Precision
from ctxtune.training.process_group import ProcessGroup
from ctxtune.training.splits import RunSplits
from ctxtune.training.subsets import subset_scores

Scored = list[tuple[Tensor, np.ndarray]]
"""Embeddings and labels of the query split and, where there is one, of the gallery."""


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

    def evaluate_by_class(self, model: EmbeddingModel, epoch: int) -> tuple[dict[str, float], ClassSums]:
        """The same, what each class adds, and and scores of random class subsets; see `FoldTrainer.evaluate_by_class`."""
        scored = self._embed_both(model, epoch, self.splits.query, self.splits.gallery)
        scores = self._score(scored, self.splits.query.name)
        named = named_scores(scores, self.splits.scored_as) | self._on_subsets(scored)
        return named, class_sums(scores, self.splits.scored_as)

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

    def _embed_both(self, model: EmbeddingModel, epoch: int, query: Split, gallery: Split | None) -> Scored:
        return [self._embed(model, epoch, split) for split in (query, gallery) if split is not None]

    def _score(self, scored: Scored, name: str) -> RetrievalScores:
        scores: RetrievalScores | None = None
        if self.world.rank == 0:
            try:
                scores = score(
                    *(each for pair in scored for each in pair),
                    recall_at=self.trial.evaluation.recall_at,
                    per_class=True,
                )
            except ValueError as error:
                raise ConfigError(f"{name} cannot be scored (evaluation.recall_at?): {error}") from None
        result: RetrievalScores = self.world.from_first(scores)
        return result

    def _on_subsets(self, scored: Scored) -> dict[str, float]:
        if self.splits.scored_as != "test" or self.splits.fold_classes is None:
            return {}
        found: list[dict[str, float]] = []
        if self.world.rank == 0:
            each = subset_scores(scored, self.splits.fold_classes, self.trial.evaluation.recall_at)
            found = [named_scores(scores, "test_subset") for scores in each]
        found = self.world.from_first(found)
        return {name: float(np.mean([scores[name] for scores in found])) for name in found[0]} if found else {}

    def _embed(self, model: EmbeddingModel, epoch: int, split: Split) -> tuple[Tensor, np.ndarray]:
        """Embeddings and labels of the images of a split that can be read; each process embeds its share."""
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
        return embeddings, split.labels[kept.numpy()]


def named_scores(scores: RetrievalScores, prefix: str) -> dict[str, float]:
    """Scores under the names that YAML, MLflow and reports use."""
    named = {f"{prefix}/recall_at_{k}": value for k, value in scores.recall_at.items()}
    return {**named, f"{prefix}/map_at_r": scores.map_at_r, f"{prefix}/r_precision": scores.r_precision}
