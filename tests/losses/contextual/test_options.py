"""The options of the contextual loss, one by one."""

from typing import Any

import pytest
import torch

from ctxtune.losses import ContextualLoss, contextual_similarity
from tests.helpers.losses import batch, relative, value_and_gradient

CHANGES: dict[str, dict[str, Any]] = {
    "contextual_weight": {"contextual_weight": 0.5, "contrastive_weight": 0.2},
    "contrastive_weight": {"contrastive_weight": 0.4},
    "contrastive_weight remainder": {"contrastive_weight": "remainder"},
    "regularizer_weight": {"regularizer_weight": 0.2},
    "k": {"k": 6},
    "epsilon": {"epsilon": 0.4},
    "positive_margin": {"positive_margin": 0.9},
    "negative_margin": {"negative_margin": 0.3},
    "similarity_target": {"similarity_target": 0.0},
    "slope": {"slope": 5.0},
    "step": {"step": "sigmoid"},
    "conjunction": {"conjunction": "minimum"},
    "overlap shared": {"overlap": "shared"},
    "overlap none": {"overlap": "none"},
    "query_expansion": {"query_expansion": False},
    "detach_overlap_normalizer": {"detach_overlap_normalizer": False},
    "detach_expansion_normalizer": {"detach_expansion_normalizer": True},
}


class TestOptions:
    @pytest.mark.parametrize("items", [32, 240, 700])
    @pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
    def test_every_option_changes_value_or_gradient(self, change: dict[str, Any], items: int) -> None:
        if items > 240 and change.get("conjunction") == "minimum":
            pytest.skip("cubic in memory traffic; the same code as for fewer items")
        embeddings, labels = batch(items, dim=16, spread=1.2)
        plain = value_and_gradient(ContextualLoss(), embeddings, labels)
        changed = value_and_gradient(ContextualLoss(**change), embeddings, labels)
        assert relative(changed[0], plain[0]) > 1e-9 or relative(changed[1], plain[1]) > 1e-6

    def test_temperature_changes_the_sigmoid_step(self) -> None:
        embeddings, labels = batch(32)
        values = [ContextualLoss(step="sigmoid", temperature=t)(embeddings, labels) for t in (0.01, 0.1)]
        assert abs(values[0] - values[1]) > 1e-6

    def test_an_unknown_option_is_named(self) -> None:
        with pytest.raises(TypeError, match="'slop'; did you mean \"slope\""):
            ContextualLoss(slop=3.0)

    def test_shows_its_options(self) -> None:
        assert "k=6" in repr(ContextualLoss(k=6)) and "step='sigmoid'" in repr(ContextualLoss(step="sigmoid"))

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ({"k": 1}, "k: expected a number of at least 2; found 1"),
            ({"k": 2.5}, "k: expected a whole number; found 2.5"),
            ({"k": True}, "k: expected a number; found true"),
            ({"epsilon": -0.1}, "epsilon: expected a number of at least 0"),
            ({"epsilon": float("nan")}, "epsilon: expected a finite number"),
            ({"epsilon": "0.1"}, "epsilon: expected a number; found '0.1'"),
            ({"positive_margin": 1.1}, r"positive_margin must be in \[-1, 1\]"),
            ({"negative_margin": -1.1}, r"negative_margin must be in \[-1, 1\]"),
            ({"similarity_target": 2.0}, r"similarity_target must be in \[-1, 1\]"),
            ({"slope": 0.0}, "slope: expected a number above 0"),
            ({"temperature": 0.0}, "temperature: expected a number above 0"),
            ({"step": "heavyside"}, "step: expected 'heuristic' or 'sigmoid'"),
            ({"conjunction": "and"}, "conjunction: expected 'product' or 'minimum'"),
            ({"overlap": True}, "overlap: expected 'both'"),
            ({"query_expansion": 1}, "query_expansion: expected true or false; found 1"),
            ({"contextual_weight": 1.2}, "contrastive_weight = 1 - contextual_weight is -0.2"),
            ({"contextual_weight": 0.95, "contrastive_weight": "remainder"}, "below 0"),
            ({"contrastive_weight": -0.1}, "contrastive_weight must be at least 0"),
            ({"contrastive_weight": "rest"}, "contrastive_weight must be a finite number"),
            ({"regularizer_weight": -1.0}, "regularizer_weight must be at least 0"),
        ],
    )
    def test_refused_at_construction(self, arguments: dict[str, Any], words: str) -> None:
        with pytest.raises(ValueError, match=words):
            ContextualLoss(**arguments)

    def test_similarity_refuses_what_is_no_similarity_matrix(self) -> None:
        with pytest.raises(ValueError, match="square"):
            contextual_similarity(torch.eye(5)[:4], 2, 0.05)
        with pytest.raises(ValueError, match="floating point"):
            contextual_similarity(torch.eye(5).long(), 2, 0.05)
        with pytest.raises(ValueError, match="fewer than k = 8"):
            contextual_similarity(torch.eye(5), 8, 0.05)
