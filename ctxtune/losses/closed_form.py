"""The hybrid loss and its gradient, derived by hand, for the heuristic step and the product conjunction.

Three forms of the contextual term compute the same: `dense` products for small batches and dense masks, `gather`ed
rows for sparse masks, and `sparse` lists for sparse masks of large batches.
"""

import contextlib

import torch
from torch import Tensor

from ctxtune.losses.dense import dense_contextual_loss
from ctxtune.losses.gather import GatheredContextualLoss
from ctxtune.losses.options import HybridTerms, SimilarityOptions
from ctxtune.losses.pairs import class_matrix, contrastive_coefficients, plus_transpose, unit_rows
from ctxtune.losses.scan import Margins, Pairs, Scan, TooDense, active_gradient, class_pairs, contrastive_value, scan
from ctxtune.losses.sparse import SparseContextualLoss

# Items from which lists are tried before rows are gathered.
LISTS_FROM = 640


def sparse_from(device: torch.device) -> int:
    """Items from which the sparse forms are tried: below, their many small steps take longer than dense products."""
    return 224 if device.type == "cpu" else 1024


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
    if terms.contextual_weight and terms.options.query_expansion and len(units) >= sparse_from(units.device):
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
