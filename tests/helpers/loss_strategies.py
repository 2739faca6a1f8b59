"""Batches and options for hypothesis, and which of them a float can decide."""

from typing import Any

import hypothesis.strategies as st
import torch

from tests.helpers.losses import batch


def least_outside(embeddings: torch.Tensor, options: dict[str, Any]) -> float:
    """How much at least lies outside of a neighborhood. Below 1e-38 float32 cannot tell it from nothing."""
    units = torch.nn.functional.normalize(embeddings.double(), dim=1)
    distances = torch.relu(2.0 - 2.0 * units @ units.T)
    reach = distances.sort(dim=1).values[:, options["k"] - 1 : options["k"]]
    depth = options["epsilon"] + reach - distances
    return float(torch.sigmoid(-depth / options["temperature"]).sum(dim=1).min())


OPTIONS = st.fixed_dictionaries(
    {
        "k": st.integers(2, 7),
        "epsilon": st.sampled_from([0.0, 1e-5, 0.05, 0.3]),
        "slope": st.sampled_from([1.0, 10.0]),
        "step": st.sampled_from(["heuristic", "sigmoid"]),
        "temperature": st.sampled_from([0.01, 0.2]),
        "conjunction": st.sampled_from(["product", "minimum"]),
        "overlap": st.sampled_from(["both", "shared", "none"]),
        "query_expansion": st.booleans(),
        "detach_overlap_normalizer": st.booleans(),
        "detach_expansion_normalizer": st.booleans(),
    }
)
CLOSED_FORM_OPTIONS = st.fixed_dictionaries(
    {
        "k": st.integers(2, 7),
        "epsilon": st.sampled_from([0.0, 0.05, 0.3]),
        "overlap": st.sampled_from(["both", "shared", "none"]),
        "detach_overlap_normalizer": st.booleans(),
        "detach_expansion_normalizer": st.booleans(),
    }
)
BATCHES = st.builds(
    batch,
    items=st.integers(7, 24),
    dim=st.integers(2, 12),
    per_class=st.integers(1, 6),
    spread=st.sampled_from([0.05, 0.5, 2.0]),
    seed=st.integers(0, 10**6),
)
WEIGHTS: dict[str, Any] = {"contextual_weight": 0.7, "contrastive_weight": 0.2, "regularizer_weight": 0.3}


def far_from_edges(embeddings: torch.Tensor, k: int, epsilon: float, distance: float) -> bool:
    """Whether no pair lies within `distance` of the edge of a neighborhood or of a margin."""
    units = torch.nn.functional.normalize(embeddings.double(), dim=1)
    similarities = units @ units.T
    sorted_rows = similarities.sort(dim=1, descending=True).values
    edges = [sorted_rows[:, size - 1 : size] - epsilon / 2 for size in (k, k // 2)]
    gaps = [(similarities - edge).abs() for edge in edges]
    if epsilon == 0:  # the k-th itself is on the edge, exactly
        gaps = [torch.where(gap == 0, torch.ones_like(gap), gap) for gap in gaps]
    gaps += [(similarities - margin).abs() for margin in (0.75, 0.6)]
    return min(float(gap.min()) for gap in gaps) > distance


# All but nothing lies outside of some rows' neighborhoods, whose gradients are 1e13 times those of other rows.
UNEVEN_BATCH = batch(items=7, dim=2, per_class=1, spread=0.5, seed=0)
UNEVEN_OPTIONS: dict[str, Any] = {
    "k": 6,
    "epsilon": 0.3,
    "step": "sigmoid",
    "temperature": 0.01,
    "conjunction": "minimum",
    "overlap": "both",
    "query_expansion": True,
    "detach_overlap_normalizer": False,
}
