"""The weighted sum of contextual loss, contrastive loss and similarity regularizer, in one pass over a batch.

For the heuristic step and the product conjunction the gradient with respect to the embeddings is derived by hand and
computed along with the value; all that is kept for the backward pass is one (n, d) matrix.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ctxtune.float32_products import full_float32
from ctxtune.losses.checks import check_not_empty
from ctxtune.losses.contextual.closed_form import closed_form
from ctxtune.losses.contextual.contrastive import contrastive_loss
from ctxtune.losses.contextual.similarity import compose
from ctxtune.losses.contextual.terms import HybridTerms
from ctxtune.losses.numerics import at_least_float32, class_matrix, unit_rows

ClosedForm = Callable[
    [Tensor, Tensor, HybridTerms, int, Tensor | None, bool],
    tuple[Tensor, tuple[Tensor | None, ...], Tensor | None],
]


def hybrid_loss(
    embeddings: Tensor,
    labels: Tensor,
    terms: HybridTerms,
    *,
    rows: int | None = None,
    allowed: Tensor | None = None,
    compute: ClosedForm = closed_form,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Weighted sum of the terms whose weight is not 0, and each of them, unweighted and detached.

    Args:
        embeddings: (n, d), of any lengths; half precision is raised to float32.
        labels: (n,) integers.
        terms: weights and options.
        rows: the leading rows over which the losses are taken, all of them if None. Neighborhoods always span all n.
        allowed: (rows, n) bool, the pairs that the contrastive term counts; None for all.
        compute: evaluates the closed form; `cuda_graphs.CudaGraphs` does so by replaying a recording.

    Returns:
        The total (differentiable with respect to `embeddings`, once) and the terms by name:
        "contextual", "contrastive", "regularizer". An embedding that is not finite makes each of them NaN.

    Raises:
        ValueError: there are fewer than k embeddings and the contextual term is asked for, or none at all.
    """
    rows = len(embeddings) if rows is None else rows
    check_not_empty(rows)
    if terms.contextual_weight:
        terms.options.check_batch(len(embeddings))
    with full_float32(embeddings.device.type):
        embeddings = at_least_float32(embeddings)
        if terms.contextual_weight and not terms.options.closed_form:
            compute = _composed
        total, *values = _HybridLoss.apply(embeddings, labels, terms, rows, allowed, compute)
    names = ("contextual", "contrastive", "regularizer")
    return total, {name: value for name, value in zip(names, values, strict=True) if value is not None}


def _composed(
    embeddings: Tensor, labels: Tensor, terms: HybridTerms, rows: int, allowed: Tensor | None, with_gradient: bool
) -> tuple[Tensor, tuple[Tensor | None, ...], Tensor | None]:
    """What `closed_form` computes, by autograd, for the options that have no closed form."""
    with torch.set_grad_enabled(with_gradient):
        leaf = embeddings.detach().requires_grad_(with_gradient)
        units, _ = unit_rows(leaf)
        similarities = units @ units.T
        same_class = class_matrix(labels, labels, units.dtype)
        error = (compose(similarities, terms.options) - same_class).fill_diagonal_(0.0)[:rows]
        contextual = error.square().sum() / error.numel()
        total = terms.contextual_weight * contextual
        contrastive = regularizer = None
        if terms.contrastive_weight:
            contrastive = contrastive_loss(similarities[:rows], same_class[:rows], terms.margins, allowed)
            total = total + terms.contrastive_weight * contrastive
        if terms.regularizer_weight:
            regularizer = (terms.similarity_target - units[:rows].mean(dim=0).dot(units.mean(dim=0))).square()
            total = total + terms.regularizer_weight * regularizer
        gradient = torch.autograd.grad(total, leaf)[0] if with_gradient else None
    poison = embeddings.sum() * 0.0
    values = (None if v is None else v.detach() + poison for v in (contextual, contrastive, regularizer))
    return total.detach() + poison, tuple(values), gradient


class _HybridLoss(torch.autograd.Function):
    """`hybrid_loss` with the gradient computed in the forward pass.

    There the similarities are at hand, the batch's graph is not yet in memory, and neither autocast nor reduced
    precision of products, which may be in force again when backward is called, can change it.
    """

    @staticmethod
    def forward(
        ctx: Any,
        embeddings: Tensor,
        labels: Tensor,
        terms: HybridTerms,
        rows: int,
        allowed: Tensor | None,
        compute: ClosedForm,
    ) -> tuple[Tensor | None, ...]:
        ctx.set_materialize_grads(False)
        total, values, gradient = compute(embeddings, labels, terms, rows, allowed, ctx.needs_input_grad[0])
        if gradient is not None:
            ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(*(value for value in values if value is not None))
        return total, *values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        gradient = None
        if gradients[0] is not None and ctx.needs_input_grad[0]:
            gradient = ctx.saved_tensors[0] * gradients[0]
        return gradient, None, None, None, None, None
