"""The weighted sum of contextual loss, contrastive loss and similarity regulariser, in one pass over a batch.

For the heuristic step and the product conjunction the gradient with respect to the embeddings is derived by hand and
computed along with the value; all that is kept for the backward pass is one (n, d) matrix.
"""

import contextlib
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ctxtune.losses.dense import dense_contextual_loss
from ctxtune.losses.gather import GatheredContextualLoss
from ctxtune.losses.options import SimilarityOptions, check_number
from ctxtune.losses.pairs import (
    at_least_float32,
    class_matrix,
    contrastive_coefficients,
    full_precision,
    plus_transpose,
    unit_rows,
)
from ctxtune.losses.scan import Margins, Pairs, Scan, TooDense, active_gradient, class_pairs, contrastive_value, scan
from ctxtune.losses.similarity import compose
from ctxtune.losses.sparse import SparseContextualLoss

# Items from which the sparse form is tried, by device: below, its many small steps take longer than dense products.
_SPARSE_FROM = defaultdict(lambda: 1024, cpu=224)
# Items from which lists are tried before rows are gathered.
LISTS_FROM = 640


@dataclass(frozen=True)
class HybridTerms:
    """What `hybrid_loss` computes: the weights of the three terms and their options.

    Raises:
        ValueError: a weight is negative or not finite, or a margin or target lies outside of [-1, 1].
    """

    options: SimilarityOptions
    contextual_weight: float
    contrastive_weight: float
    regularizer_weight: float
    positive_margin: float
    negative_margin: float
    similarity_target: float

    def __post_init__(self) -> None:
        for name in ("contextual_weight", "contrastive_weight", "regularizer_weight"):
            check_number(name, getattr(self, name), minimum=0.0)
        for name in ("positive_margin", "negative_margin", "similarity_target"):
            check_number(name, getattr(self, name), minimum=-1.0, maximum=1.0)


def hybrid_loss(
    embeddings: Tensor,
    labels: Tensor,
    terms: HybridTerms,
    *,
    rows: int | None = None,
    allowed: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Weighted sum of the terms whose weight is not 0, and each of them, unweighted and detached.

    Args:
        embeddings: (n, d), of any lengths; half precision is raised to float32.
        labels: (n,) integers.
        terms: weights and options.
        rows: the leading rows over which the losses are taken, all of them if None. Neighbourhoods always span all n.
        allowed: (rows, n) bool, the pairs that the contrastive term counts; None for all.

    Returns:
        The total (differentiable with respect to `embeddings`, once) and the terms by name:
        "contextual", "contrastive", "regularizer". An embedding that is not finite makes each of them NaN.

    Raises:
        ValueError: there are fewer than k embeddings and the contextual term is asked for, or none at all.
    """
    rows = len(embeddings) if rows is None else rows
    if rows == 0:
        raise ValueError("the batch is empty")
    if terms.contextual_weight:
        terms.options.check_batch(len(embeddings))
    with full_precision(embeddings.device):
        embeddings = at_least_float32(embeddings)
        if terms.contextual_weight == 0 or terms.options.closed_form:
            total, *values = _ClosedForm.apply(embeddings, labels, terms, rows, allowed)
        else:
            total, *values = _composed(embeddings, labels, terms, rows, allowed)
    names = ("contextual", "contrastive", "regularizer")
    return total, {name: value for name, value in zip(names, values, strict=True) if value is not None}


def _composed(
    embeddings: Tensor, labels: Tensor, terms: HybridTerms, rows: int, allowed: Tensor | None
) -> tuple[Tensor | None, ...]:
    """`hybrid_loss` by autograd, for the options that have no closed form."""
    units, _ = unit_rows(embeddings)
    similarities = units @ units.T
    same_class = class_matrix(labels, labels, units.dtype)
    total = embeddings.sum() * 0.0
    contextual = contrastive = regularizer = None
    weights = compose(similarities, terms.options)
    error = (weights - same_class).fill_diagonal_(0.0)[:rows]
    contextual = error.square().sum() / error.numel()
    total = total + terms.contextual_weight * contextual
    if terms.contrastive_weight:
        exact = similarities.detach().clamp(max=1.0).fill_diagonal_(1.0)
        contrastive, coefficients = contrastive_coefficients(
            exact[:rows], same_class[:rows], terms.positive_margin, terms.negative_margin, allowed
        )
        # Piecewise linear: the value is `contrastive`, the gradient that of the inner product.
        linear = (similarities[:rows] * coefficients).sum()
        total = total + terms.contrastive_weight * (linear - linear.detach() + contrastive)
    if terms.regularizer_weight:
        regularizer = (terms.similarity_target - units[:rows].mean(dim=0).dot(units.mean(dim=0))).square()
        total = total + terms.regularizer_weight * regularizer
    poison = total.detach() * 0.0
    return total, *(None if v is None else v.detach() + poison for v in (contextual, contrastive, regularizer))


class _ClosedForm(torch.autograd.Function):
    """`hybrid_loss` with the gradient computed in the forward pass, for as long as the similarities are at hand."""

    @staticmethod
    def forward(
        ctx: Any, embeddings: Tensor, labels: Tensor, terms: HybridTerms, rows: int, allowed: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        ctx.set_materialize_grads(False)
        total, values, gradient = closed_form(embeddings, labels, terms, rows, allowed, ctx.needs_input_grad[0])
        if gradient is not None:
            ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(*(value for value in values if value is not None))
        return total, *values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        if gradients[0] is None or not ctx.needs_input_grad[0]:
            return None, None, None, None, None
        (gradient,) = ctx.saved_tensors
        return gradient * gradients[0], None, None, None, None


def closed_form(
    embeddings: Tensor, labels: Tensor, terms: HybridTerms, rows: int, allowed: Tensor | None, with_gradient: bool
) -> tuple[Tensor, tuple[Tensor | None, ...], Tensor | None]:
    """Total, the three terms (None where the weight is 0), and the total's gradient (n, d)."""
    units, lengths = unit_rows(embeddings)
    sums = units.sum(dim=0)
    poison = (sums * 0.0).sum()
    total = poison
    contextual = contrastive = regularizer = None
    of_units: Tensor | None = None
    if terms.contextual_weight or terms.contrastive_weight:
        contextual, contrastive, of_units = _matrix_terms(units, labels, terms, rows, allowed, with_gradient)
        if contextual is not None:
            contextual = contextual + poison
            total = torch.add(total, contextual, alpha=terms.contextual_weight)
        if contrastive is not None:
            contrastive = contrastive + poison
            total = torch.add(total, contrastive, alpha=terms.contrastive_weight)
    if with_gradient and of_units is None:
        of_units = torch.zeros_like(units)
    if terms.regularizer_weight:
        row_sums = sums if rows == len(units) else units[:rows].sum(dim=0)
        difference = terms.similarity_target - torch.dot(row_sums, sums) / (rows * len(units))
        regularizer = difference.square()
        total = torch.add(total, regularizer, alpha=terms.regularizer_weight)
        if of_units is not None:
            scale = difference * (-2.0 * terms.regularizer_weight / (rows * len(units)))
            of_units += scale * row_sums
            of_units[:rows] += scale * sums
    gradient = None
    if of_units is not None:
        along = (of_units * units).sum(dim=1, keepdim=True)
        gradient = of_units.addcmul_(units, along, value=-1.0).div_(lengths)
    return total, (contextual, contrastive, regularizer), gradient


def _matrix_terms(
    units: Tensor, labels: Tensor, terms: HybridTerms, rows: int, allowed: Tensor | None, with_gradient: bool
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Contextual and contrastive loss, and the gradient of their weighted sum with respect to the unit embeddings."""
    similarities = None
    if terms.contextual_weight and terms.options.query_expansion and len(units) >= _SPARSE_FROM[units.device.type]:
        try:
            return _sparse_terms(units, labels, terms, rows, allowed, with_gradient)
        except TooDense as found:
            similarities = found.similarities
    return _dense_terms(units, labels, terms, rows, allowed, with_gradient, similarities)


def _sparse_terms(
    units: Tensor, labels: Tensor, terms: HybridTerms, rows: int, allowed: Tensor | None, with_gradient: bool
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    same_class = class_pairs(labels)
    margins = None
    if terms.contrastive_weight:
        margins = Margins(terms.positive_margin, terms.negative_margin, allowed)
    found = scan(units, same_class, terms.options, margins, rows)
    loss = _closed_form_loss(found, same_class, terms.options, rows, units.dtype)
    contextual, contrastive = loss.value(), None
    if found.active is not None:
        contrastive = contrastive_value(
            found.active.count, found.active.total, terms.positive_margin, terms.negative_margin
        )
    if not with_gradient:
        return contextual, contrastive, None
    if found.active is None:
        matrix, unit = units.new_zeros(len(units), len(units)), units.new_ones(())
    else:
        symmetric = rows == len(units) and allowed is None
        matrix, unit = active_gradient(found.active, terms.contrastive_weight, symmetric=symmetric)
    row = loss.gradient(matrix, terms.contextual_weight / unit)
    del loss
    of_units = matrix @ units
    of_units.addr_(row, units.sum(dim=0)).add_(row @ units)
    return contextual, contrastive, of_units.mul_(unit)


def _closed_form_loss(
    found: Scan, same_class: Pairs, options: SimilarityOptions, rows: int, dtype: torch.dtype
) -> SparseContextualLoss | GatheredContextualLoss:
    """The form that is quickest for the size and density of the masks."""
    if len(same_class.sizes) >= LISTS_FROM:
        with contextlib.suppress(TooDense):
            return SparseContextualLoss(found, same_class, options, rows, dtype)
    return GatheredContextualLoss(found, same_class, options, rows, dtype)


def _dense_terms(
    units: Tensor,
    labels: Tensor,
    terms: HybridTerms,
    rows: int,
    allowed: Tensor | None,
    with_gradient: bool,
    similarities: Tensor | None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    if similarities is None:
        similarities = units @ units.T
    similarities.clamp_(max=1.0).fill_diagonal_(1.0)
    same_class = class_matrix(labels, labels, units.dtype)
    contextual = contrastive = of_similarities = None
    if terms.contextual_weight:
        contextual, of_similarities = dense_contextual_loss(
            similarities, same_class, terms.options, rows, with_gradient
        )
        if of_similarities is not None:
            of_similarities *= terms.contextual_weight
    if terms.contrastive_weight:
        contrastive, coefficients = contrastive_coefficients(
            similarities[:rows], same_class[:rows], terms.positive_margin, terms.negative_margin, allowed
        )
        if with_gradient:
            if of_similarities is None:
                of_similarities = torch.zeros_like(similarities)
            of_similarities[:rows].add_(coefficients, alpha=terms.contrastive_weight)
    if of_similarities is None:
        return contextual, contrastive, None
    return contextual, contrastive, plus_transpose(of_similarities) @ units
