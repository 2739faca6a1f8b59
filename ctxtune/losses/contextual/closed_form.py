"""The hybrid loss and its gradient, derived by hand, for the heuristic step and the product conjunction.

Three forms of the contextual term compute the same: `dense` products for small batches and dense masks, `gather`ed
rows for sparse masks, and `sparse` lists for sparse masks of large batches.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ctxtune.losses.contextual.contrastive import ActivePairs, ActivePairsCollector, contrastive_coefficients
from ctxtune.losses.contextual.dense import dense_contextual_loss, dense_masks
from ctxtune.losses.contextual.gathered import GatheredContextualLoss
from ctxtune.losses.contextual.neighborhoods import Neighborhoods, TooDense, find_neighborhoods
from ctxtune.losses.contextual.options import SimilarityOptions
from ctxtune.losses.contextual.sparse import SparseContextualLoss, lists_pay
from ctxtune.losses.contextual.sparse_mask import SparseMask, class_pairs
from ctxtune.losses.contextual.terms import HybridTerms
from ctxtune.losses.numerics import class_matrix, plus_transpose, unit_rows
from ctxtune.losses.regularizer import regularizer_and_gradient

# Items from which lists are tried before rows are gathered.
LISTS_FROM = 640


def sparse_from(device: torch.device) -> int:
    """Items from which the sparse forms are tried: below, their many small steps take longer than dense products.

    On a GPU the sparse forms take 11 ms however few items there are: they launch 500 kernels and wait for the device a
    dozen times. The dense one takes as long at about 3,700 items (docs/gpu.md), in some 400 MiB.
    """
    return 224 if device.type == "cpu" else 4096


@dataclass(frozen=True)
class _MatrixTerms:
    """The terms that need the matrix of similarities; None where the weight is 0.

    Attributes:
        contextual, contrastive: the losses.
        of_units: (n, d), the gradient of their weighted sum with respect to the unit embeddings over `unit`.
        unit: a number, or a tensor with one.
    """

    contextual: Tensor | None
    contrastive: Tensor | None
    of_units: Tensor | None
    unit: Tensor | float


def closed_form(
    embeddings: Tensor, labels: Tensor, terms: HybridTerms, rows: int, allowed: Tensor | None, with_gradient: bool
) -> tuple[Tensor, tuple[Tensor | None, ...], Tensor | None]:
    """Total, the three terms (None where the weight is 0), and the total's gradient (n, d)."""
    units, lengths = unit_rows(embeddings)
    poison = lengths.sum() * 0.0  # NaN where an embedding is not finite: comparisons would hide it
    total = poison
    unit: Tensor | float = 1.0
    contextual = contrastive = regularizer = None
    of_units: Tensor | None = None
    if terms.contextual_weight or terms.contrastive_weight:
        found = _matrix_terms(units, labels, terms, rows, allowed, with_gradient)
        contextual, contrastive, of_units, unit = found.contextual, found.contrastive, found.of_units, found.unit
        if contextual is not None:
            contextual = contextual + poison
            total = torch.add(total, contextual, alpha=terms.contextual_weight)
        if contrastive is not None:
            contrastive = contrastive + poison
            total = torch.add(total, contrastive, alpha=terms.contrastive_weight)
    elif with_gradient:
        of_units = torch.zeros_like(units)
    if terms.regularizer_weight:
        regularizer, of_regularizer = regularizer_and_gradient(units, terms.similarity_target, rows)
        total = torch.add(total, regularizer, alpha=terms.regularizer_weight)
        if of_units is not None:
            of_units.add_(of_regularizer * (terms.regularizer_weight / unit))
    if of_units is None:
        return total, (contextual, contrastive, regularizer), None
    along = (of_units * units).sum(dim=1, keepdim=True)
    gradient = of_units.addcmul_(units, along, value=-1.0).div_(lengths / unit)
    return total, (contextual, contrastive, regularizer), gradient


def _matrix_terms(
    units: Tensor, labels: Tensor, terms: HybridTerms, rows: int, allowed: Tensor | None, with_gradient: bool
) -> _MatrixTerms:
    similarities = None
    if terms.contextual_weight and terms.options.query_expansion and len(units) >= sparse_from(units.device):
        same_class = class_pairs(labels)
        collector = None
        if terms.contrastive_weight:
            collector = ActivePairsCollector(same_class, terms.margins, allowed, units, rows)
        found = find_neighborhoods(units, same_class, terms.options, collector, rows)
        if not isinstance(found, TooDense):
            symmetric = rows == len(units) and allowed is None
            return _sparse_terms(*found, units, same_class, terms, rows, symmetric, with_gradient)
        similarities = found.similarities
    if similarities is None:
        similarities = units @ units.T
    return _dense_terms(similarities, units, labels, terms, rows, allowed, with_gradient)


def _sparse_terms(
    masks: Neighborhoods,
    active: ActivePairs | None,
    units: Tensor,
    same_class: SparseMask,
    terms: HybridTerms,
    rows: int,
    symmetric: bool,
    with_gradient: bool,
) -> _MatrixTerms:
    loss = _sparse_loss(masks, same_class, terms.options, rows, units.dtype)
    contextual = loss.value()
    contrastive = None if active is None else active.loss(terms.margins)
    if not with_gradient:
        return _MatrixTerms(contextual, contrastive, None, 1.0)
    if active is None:
        matrix, unit = units.new_zeros(len(units), len(units)), units.new_ones(())
    else:
        matrix, unit = active.gradient(terms.contrastive_weight, symmetric=symmetric)
    row = loss.gradient(matrix, terms.contextual_weight / unit)
    del loss
    matrix.add_(row.unsqueeze(1)).add_(row)
    of_units = matrix @ units
    return _MatrixTerms(contextual, contrastive, of_units, unit)


def _sparse_loss(
    masks: Neighborhoods, same_class: SparseMask, options: SimilarityOptions, rows: int, dtype: torch.dtype
) -> SparseContextualLoss | GatheredContextualLoss:
    """The form that is quickest for the size and density of the masks."""
    if masks.neighbors.items >= LISTS_FROM and lists_pay(masks, same_class, options):
        return SparseContextualLoss(masks, same_class, options, rows, dtype)
    return GatheredContextualLoss(masks, same_class, options, rows, dtype)


def _dense_terms(
    similarities: Tensor,
    units: Tensor,
    labels: Tensor,
    terms: HybridTerms,
    rows: int,
    allowed: Tensor | None,
    with_gradient: bool,
) -> _MatrixTerms:
    similarities.fill_diagonal_(1.0)
    same_class = class_matrix(labels, labels, units.dtype)
    contextual = contrastive = coefficients = gradient = None
    unit = 1.0
    masks = dense_masks(similarities, terms.options) if terms.contextual_weight else None
    if terms.contrastive_weight:
        contrastive, coefficients = contrastive_coefficients(
            similarities[:rows], same_class[:rows], terms.margins, allowed
        )
    del similarities
    if masks is not None:
        contextual, gradient, unit = dense_contextual_loss(*masks, same_class, terms.options, rows, with_gradient)
        unit *= terms.contextual_weight
    if not with_gradient:
        return _MatrixTerms(contextual, contrastive, None, 1.0)
    if gradient is None:
        gradient, unit = torch.zeros_like(same_class), 1.0
    if coefficients is not None:
        gradient[:rows].add_(coefficients, alpha=terms.contrastive_weight / unit)
    return _MatrixTerms(contextual, contrastive, plus_transpose(gradient) @ units, unit)
