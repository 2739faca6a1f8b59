"""The contextual loss as a pytorch-metric-learning loss."""

import inspect
from collections.abc import Iterable
from dataclasses import fields

from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.losses import BaseMetricLossFunction
from pytorch_metric_learning.reducers import DoNothingReducer, MeanReducer, MultipleReducers
from torch import Tensor

from ctxtune.losses.contextual.closed_form import closed_form
from ctxtune.losses.contextual.contrastive import Margins
from ctxtune.losses.contextual.cuda_graphs import CudaGraphs
from ctxtune.losses.contextual.hybrid import ClosedForm, hybrid_loss
from ctxtune.losses.contextual.options import SimilarityOptions, contrastive_weight_of, takes_similarity_options
from ctxtune.losses.contextual.terms import HybridTerms
from ctxtune.losses.numerics import check_distance
from ctxtune.losses.reference import join_reference, narrowed_pairs
from ctxtune.text import did_you_mean

_LIBRARY_ARGUMENTS = ("embedding_regularizer", "embedding_reg_weight", "collect_stats", "distance", "reducer")
_OPTIONS = SimilarityOptions().model_dump()


class ContextualLoss(BaseMetricLossFunction):
    """Contextual loss + contrastive loss + similarity regularizer (Liao et al., ICML 2023, arXiv 2210.01908).

    contextual_weight * L_context + contrastive_weight * L_contrast + regularizer_weight * L_reg, as in the paper with
    `contrastive_weight=None` (1 - contextual_weight). The authors' 256 px code has 1 - contextual_weight -
    regularizer_weight instead: `contrastive_weight="remainder"`.

    Args:
        contextual_weight: weight of the contextual term.
        contrastive_weight: a number, None (1 - contextual_weight) or "remainder" (what the other two leave of 1).
        regularizer_weight: weight of the similarity regularizer.
        k, epsilon and the options of the similarity: see `SimilarityOptions`.
        positive_margin, negative_margin: cosine similarities of the contrastive term.
        similarity_target: mean cosine similarity that the regularizer pulls to.
        pytorch_metric_learning: the arguments of its losses: `embedding_regularizer`, `embedding_reg_weight`,
            `collect_stats`; `distance` only CosineSimilarity, `reducer` only one that leaves a reduced loss as it is.

    Raises:
        ValueError: an option is out of its range, or a distance or reducer is asked for that the loss does not have.
        TypeError: an option is not known.
    """

    @takes_similarity_options
    def __init__(
        self,
        contextual_weight: float = 0.8,
        contrastive_weight: float | str | None = None,
        regularizer_weight: float = 0.1,
        k: int = _OPTIONS["k"],
        epsilon: float = _OPTIONS["epsilon"],
        positive_margin: float = 0.75,
        negative_margin: float = 0.6,
        similarity_target: float = 0.3,
        **pytorch_metric_learning: object,
    ) -> None:
        given = {name: pytorch_metric_learning.pop(name) for name in _OPTIONS if name in pytorch_metric_learning}
        _check_library_arguments(pytorch_metric_learning)
        options = SimilarityOptions.of(type(self).__name__, {**given, "k": k, "epsilon": epsilon})
        resolved = contrastive_weight_of(contextual_weight, contrastive_weight, regularizer_weight)
        _check_reducer(pytorch_metric_learning.get("reducer"))
        super().__init__(**pytorch_metric_learning)
        self.use_cuda_graphs(False)
        check_distance(self)
        self.terms = HybridTerms(
            options=options,
            contextual_weight=contextual_weight,
            contrastive_weight=resolved,
            regularizer_weight=regularizer_weight,
            margins=Margins(positive_margin, negative_margin),
            similarity_target=similarity_target,
        )

    def use_cuda_graphs(self, use: bool = True) -> "ContextualLoss":
        """Record the loss of small batches on a GPU as CUDA graphs, one for each shape, and replay them.

        That makes one launch of about a hundred. It pays where launching is what takes the time, and costs the memory
        of about ten (n, n) matrices for each shape. Without effect on a CPU. Returns the loss itself.
        """
        self._compute: ClosedForm = CudaGraphs() if use else closed_form
        return self

    def extra_repr(self) -> str:
        """The weights, margins and options, for `print`."""
        terms = {field.name: getattr(self.terms, field.name) for field in fields(self.terms)}
        margins = terms.pop("margins")
        shown = terms | {"positive_margin": margins.positive, "negative_margin": margins.negative}
        shown |= shown.pop("options").model_dump()
        return ", ".join(f"{name}={value!r}" for name, value in shown.items())

    # What equals a row of the batch in a reference set is a copy of it, and left out: nobody need say which pairs are.
    leaves_out_copies = True

    def get_default_distance(self) -> CosineSimilarity:
        """The only distance of this loss."""
        return CosineSimilarity()

    def compute_loss(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        indices_tuple: tuple[Tensor, ...] | None,
        ref_emb: Tensor,
        ref_labels: Tensor | None,
    ) -> dict[str, dict[str, object]]:
        """Called by `forward`; see `weighted_terms`."""
        reference = None if ref_emb is embeddings else ref_emb
        total, _ = self.weighted_terms(embeddings, labels, indices_tuple, reference, ref_labels)
        return {"loss": {"losses": total, "indices": None, "reduction_type": "already_reduced"}}

    def weighted_terms(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        indices_tuple: tuple[Tensor, ...] | None = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum, and its terms: "contextual", "contrastive", "regularizer", unweighted and detached.

        Args:
            embeddings: (n, d) of any lengths.
            labels: (n,) integers.
            indices_tuple: pairs (4 tensors) or triplets (3 tensors) as pytorch-metric-learning's miners return them:
                the only pairs that the contrastive term counts. The contextual term always sees the whole batch.
            ref_emb, ref_labels: (m, d) and (m,), a memory. Neighborhoods are taken over batch and memory together,
                losses over the batch's rows. Rows of the memory that equal a row of the batch are copies of it
                (CrossBatchMemory stores a batch before it asks for the loss) and are left out.

        Raises:
            ValueError: there are no labels; fewer than k embeddings; an indices_tuple leaves out pairs although there
                is no contrastive term to be narrowed.
        """
        if labels is None:
            raise ValueError("ContextualLoss needs labels: neighborhoods are compared with classes, not with pairs")
        rows, columns = len(embeddings), None
        if ref_emb is not None:
            if ref_labels is None:
                raise ValueError("ContextualLoss needs ref_labels with ref_emb")
            embeddings, labels, columns = join_reference(embeddings, labels, ref_emb, ref_labels)
        allowed = None
        if indices_tuple is not None:
            allowed = narrowed_pairs(indices_tuple, labels, rows, columns, required=not self.terms.contrastive_weight)
        return hybrid_loss(embeddings, labels, self.terms, rows=rows, allowed=allowed, compute=self._compute)


def _check_library_arguments(names: Iterable[str]) -> None:
    ours = list(inspect.signature(ContextualLoss).parameters)[:-1]
    for name in names:
        if name not in _LIBRARY_ARGUMENTS:
            hint = did_you_mean(name, [*ours, *_LIBRARY_ARGUMENTS])
            raise TypeError(f"unknown option of ContextualLoss: {name!r}{hint}")


def _check_reducer(reducer: object) -> None:
    """Refuse reducers that would be passed over in silence: the terms are means over sets that differ from each other.

    A loss that is reduced already goes through every reducer of pytorch-metric-learning unchanged.
    """
    if isinstance(reducer, MultipleReducers):
        for each in (*reducer.reducers.values(), reducer.default_reducer):
            _check_reducer(each)
    elif reducer is not None and type(reducer) not in (MeanReducer, DoNothingReducer):
        raise ValueError(
            f"ContextualLoss has means of its own (over all pairs, and over the active ones): {type(reducer).__name__} "
            "would change nothing. Leave `reducer` out, or pass MeanReducer or DoNothingReducer"
        )
