"""Oracles for the losses, written out from docs/contextual_loss.md without any of the package's code, and short cuts."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ctxtune.losses import LossSettings, RegularizerSettings, TrainingLoss


class HeuristicStep(torch.autograd.Function):
    """1[x >= 0] with a constant slope backward."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, slope: float) -> Tensor:
        ctx.slope = slope
        return (values >= 0).to(values.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.slope * gradients[0], None


def naive_similarity(
    similarities: Tensor,
    k: int = 4,
    epsilon: float = 0.05,
    slope: float = 10.0,
    step: str = "heuristic",
    temperature: float = 0.01,
    conjunction: str = "product",
    overlap: str = "both",
    query_expansion: bool = True,
    detach_overlap_normalizer: bool = True,
    detach_expansion_normalizer: bool = False,
) -> Tensor:
    """Contextual similarity, every sum over the batch as a sum over a third axis: (n, n) to (n, n)."""
    distances = torch.relu(2.0 - 2.0 * similarities)
    distances = distances - torch.diag(torch.diag(distances).detach())

    def neighborhood(size: int) -> tuple[Tensor, Tensor]:
        values = epsilon + distances.detach().sort(dim=1).values[:, size - 1 : size] - distances
        if step == "sigmoid":
            return torch.sigmoid(values / temperature), torch.sigmoid(-values / temperature)
        inside = HeuristicStep.apply(values, slope)
        return inside, 1.0 - inside

    def both(first: Tensor, second: Tensor) -> Tensor:
        return first * second if conjunction == "product" else torch.minimum(first, second)

    def ratio(part: Tensor, whole: Tensor, detach: bool) -> Tensor:
        whole = whole.detach() if detach else whole
        empty = whole == 0
        return torch.where(empty, torch.zeros_like(part), part / torch.where(empty, torch.ones_like(whole), whole))

    inside, outside = neighborhood(k)
    weights = inside
    if overlap != "none":
        common = both(inside.unsqueeze(1), inside.unsqueeze(0)).sum(dim=2)
        share = ratio(common, inside.sum(dim=1, keepdim=True), detach_overlap_normalizer)
        if overlap == "both":
            common = both(outside.unsqueeze(1), outside.unsqueeze(0)).sum(dim=2)
            share = 0.5 * (share + ratio(common, outside.sum(dim=1, keepdim=True), detach_overlap_normalizer))
        weights = both(inside, share)
    if not query_expansion:
        return weights
    closest, _ = neighborhood(k // 2)
    reciprocal = both(closest, closest.T)
    expanded = both(reciprocal.unsqueeze(2), weights.unsqueeze(0)).sum(dim=1)
    expanded = ratio(expanded, reciprocal.sum(dim=1, keepdim=True), detach_expansion_normalizer)
    return 0.5 * (expanded + expanded.T)


def naive_loss(
    embeddings: Tensor,
    labels: Tensor,
    contextual_weight: float = 0.8,
    contrastive_weight: float = 0.2,
    regularizer_weight: float = 0.1,
    positive_margin: float = 0.75,
    negative_margin: float = 0.6,
    similarity_target: float = 0.3,
    rows: int | None = None,
    allowed: Tensor | None = None,
    similarity: Callable[..., Tensor] = naive_similarity,
    **options: Any,
) -> Tensor:
    """The weighted sum of the three terms; with `rows`, over the pairs of the first rows with everything.

    `naive_similarity` takes memory with the cube of the batch: beyond about 250 items pass another, tested against it.
    """
    rows = len(labels) if rows is None else rows
    units = torch.nn.functional.normalize(embeddings, dim=1)
    similarities = units @ units.T
    same = labels.unsqueeze(1) == labels
    pairs = ~torch.eye(len(labels), dtype=torch.bool)
    pairs[rows:] = False
    count = rows * len(labels)
    total = regularizer_weight * (similarity_target - similarities[:rows].sum() / count).square()
    if contextual_weight:
        error = similarity(similarities, **{"k": 4, "epsilon": 0.05, **options}) - same.to(units.dtype)
        total = total + contextual_weight * error[pairs].square().sum() / count
    counted = pairs.clone()
    if allowed is not None:
        counted[:rows] &= allowed
    pull = (positive_margin - similarities)[counted & same]
    push = (similarities - negative_margin)[counted & ~same]
    for violations in (pull[pull > 0], push[push > 0]):
        if len(violations):
            total = total + contrastive_weight * violations.mean()
    return total


def value_and_gradient(loss: Any, embeddings: Tensor, *arguments: Any, **keywords: Any) -> tuple[Tensor, Tensor]:
    """The value of loss(embeddings, ...) and its gradient with respect to the embeddings."""
    embeddings = embeddings.detach().clone().requires_grad_(True)
    value = loss(embeddings, *arguments, **keywords)
    (gradient,) = torch.autograd.grad(value, embeddings)
    return value.detach(), gradient


def relative(found: Tensor, wanted: Tensor) -> float:
    """Largest difference as a share of the largest value wanted."""
    return float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30))


def batch(
    items: int,
    dim: int = 16,
    per_class: int = 4,
    spread: float = 0.7,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor]:
    """Embeddings around a random center for each class, in random order: (items, dim) and (items,)."""
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.arange(items) // per_class)[torch.randperm(items, generator=generator)]
    centers = torch.randn(items // per_class + 1, dim, generator=generator, dtype=torch.float64)
    noise = torch.randn(items, dim, generator=generator, dtype=torch.float64)
    return (centers[labels] + spread * noise).to(dtype), labels


def training_loss(weight: float = 0.0, **loss: Any) -> TrainingLoss:
    torch.manual_seed(0)
    settings, regularizer = LossSettings(**loss), RegularizerSettings(weight=weight)
    return TrainingLoss(settings, regularizer, num_classes=8, embedding_dim=16, num_images=32)


def total(loss: TrainingLoss, embeddings: Tensor, labels: Tensor) -> Tensor:
    torch.manual_seed(1)  # some miners draw
    return loss(embeddings, labels)[0]


OTHER_VALUES: dict[str, Any] = {
    "k": 6,
    "epsilon": 0.4,
    "slope": 3.0,
    "step": "sigmoid",
    "conjunction": "minimum",
    "overlap": "none",
    "query_expansion": False,
    "detach_overlap_normalizer": False,
    "detach_expansion_normalizer": True,
    "contextual_weight": 0.3,
    "contrastive_weight": 0.7,
    "positive_margin": 0.5,
    "negative_margin": 0.2,
    "margin": 0.3,
    "swap": True,
    "smooth_loss": True,
    "alpha": 3.0,
    "beta": 20.0,
    "base": 0.2,
    "softmax_scale": 2.0,
    "temperature": 0.3,
    "scale": 16.0,
    "offset": 2.0,
    "delta": 0.2,
    "start": 0.1,
    "average_precision_weight": 0.9,
    "bins": 7,
    "num_bins": 5,
    "m": 0.2,
    "gamma": 40.0,
    "cutoff": 1.2,
    "nonzero_loss_cutoff": 1.1,
    "type_of_triplets": "easy",
    "pos_margin": 0.6,
    "neg_margin": 0.5,
    "pos_strategy": "hard",
    "neg_strategy": "hard",
    "proxies": "image",
    "sub_centers": 2,
    "centers_per_class": 3,
    "learn_beta": True,
    "nu": 0.1,
    "hardness": 0.3,
    "network_weight": 0.2,
    "network_width": 24,
    "proxies_per_class": 4,
    "decay": 2.0,
    "radius": 0.8,
    "curvature": 1.0,
    "clip_radius": 1.0,
    "cutoffs": [1, 3],
    "rank_temperature": 0.2,
    "cutoff_temperature": 0.3,
    "mixing": False,
}
