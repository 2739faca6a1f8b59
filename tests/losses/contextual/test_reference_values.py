"""Values and gradients against those that the project was given (../shared/reference/losses), in float64 and float32."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ctxtune.losses import ContextualLoss, build_loss, contextual_similarity

REFERENCE = Path(__file__).resolve().parents[4] / "shared" / "reference" / "losses"
CASES: list[dict[str, Any]] = (
    json.loads((REFERENCE / "cases.json").read_text()) if (REFERENCE / "cases.json").is_file() else []
)
pytestmark = pytest.mark.skipif(not CASES, reason="the reference values are not beside this checkout")

WITHOUT_OVERLAP = {"overlap": "none", "query_expansion": False, "epsilon": 1e-5}
ABLATIONS: dict[int, dict[str, Any]] = {
    1: WITHOUT_OVERLAP,
    2: {**WITHOUT_OVERLAP, "step": "sigmoid"},
    3: {"query_expansion": False},
    4: {"query_expansion": False, "overlap": "shared"},
    5: {"conjunction": "minimum"},
    6: {"step": "sigmoid"},
    7: {"overlap": "shared"},
    8: {"overlap": "none"},
    9: {"detach_expansion_normalizer": True},
    10: {"detach_overlap_normalizer": False},
}
ALONE = {"contextual_weight": 1.0, "contrastive_weight": 0.0, "regularizer_weight": 0.0}


def quantities(case: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The arguments of ContextualLoss for each value of a case."""
    weight, gamma = case["lam"], case["gamma"]
    found = {
        "contextual_loss": ALONE,
        "contrastive_loss": {"contextual_weight": 0.0, "contrastive_weight": 1.0, "regularizer_weight": 0.0},
        "regularizer": {"contextual_weight": 0.0, "contrastive_weight": 0.0, "regularizer_weight": 1.0},
        "hybrid_256": {"contextual_weight": weight, "contrastive_weight": "remainder", "regularizer_weight": gamma},
        "hybrid_224": {"contextual_weight": 1.0 - weight, "regularizer_weight": gamma},
    }
    for number, options in ABLATIONS.items():
        found[f"ablation_{number}_contextual_loss"] = {**ALONE, **options}
    return {name: options for name, options in found.items() if name in case}


def arguments(case: dict[str, Any]) -> dict[str, Any]:
    names = {"k": "k", "epsilon": "eps", "positive_margin": "pos_margin", "negative_margin": "neg_margin"}
    names |= {"similarity_target": "similarity_target", "slope": "heaviside_slope"}
    return {ours: case[theirs] for ours, theirs in names.items()}


def assert_close(found: torch.Tensor, wanted: Any, tolerance: float, what: str) -> None:
    wanted = torch.as_tensor(wanted, dtype=torch.float64)
    scale = wanted.abs().max().clamp(min=1e-30)
    error = (found.double() - wanted).abs().max() / scale
    assert error <= tolerance, f"{what}: relative error {error:.2e}"


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-4)])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_contextual_loss_and_ablations(case: dict[str, Any], dtype: torch.dtype, tolerance: float) -> None:
    arrays = np.load(REFERENCE / f"{case['name']}.npz")
    labels = torch.from_numpy(arrays["labels"])
    for name, options in quantities(case).items():
        embeddings = torch.tensor(arrays["embeddings"], dtype=dtype, requires_grad=True)
        loss = ContextualLoss(**{**arguments(case), **options})(embeddings, labels)
        loss.backward()
        assert embeddings.grad is not None
        assert_close(loss.detach(), case[name], tolerance, name)
        assert_close(embeddings.grad, arrays[f"{name}_grad"], tolerance, f"gradient of {name}")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_contextual_similarity(case: dict[str, Any]) -> None:
    arrays = np.load(REFERENCE / f"{case['name']}.npz")
    units = torch.nn.functional.normalize(torch.from_numpy(arrays["embeddings"]), dim=1)
    similarity = contextual_similarity(units @ units.T, case["k"], case["eps"])
    assert_close(similarity, arrays["contextual_similarity"], 1e-6, "contextual similarity")


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-4)])
@pytest.mark.parametrize("name", ["sup_ap", "smooth_ap", "softbin_ap"])
@pytest.mark.parametrize("case", [case for case in CASES if "sup_ap" in case], ids=lambda case: case["name"])
def test_average_precision_losses(case: dict[str, Any], name: str, dtype: torch.dtype, tolerance: float) -> None:
    arrays = np.load(REFERENCE / f"{case['name']}.npz")
    embeddings = torch.tensor(arrays["embeddings"], dtype=dtype, requires_grad=True)
    loss = build_loss(name)(embeddings, torch.from_numpy(arrays["labels"]))
    loss.backward()
    assert embeddings.grad is not None
    assert_close(loss.detach(), case[name], tolerance, name)
    assert_close(embeddings.grad, arrays[f"{name}_grad"], tolerance, f"gradient of {name}")


def test_contrastive_baseline_is_pytorch_metric_learning_s() -> None:
    for case in CASES:
        arrays = np.load(REFERENCE / f"{case['name']}.npz")
        embeddings = torch.tensor(arrays["embeddings"], requires_grad=True)
        margins = {"positive_margin": case["pos_margin"], "negative_margin": case["neg_margin"]}
        loss = build_loss("contrastive", **margins)(embeddings, torch.from_numpy(arrays["labels"]))
        loss.backward()
        assert embeddings.grad is not None
        assert_close(loss.detach(), case["contrastive_loss"], 1e-6, case["name"])
        assert_close(embeddings.grad, arrays["contrastive_loss_grad"], 1e-6, case["name"])
