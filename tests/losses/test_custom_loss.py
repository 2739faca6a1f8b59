"""A user's own loss, by its file."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ctxtune.losses import (
    LossSettings,
    build_loss,
)
from tests.helpers.losses import batch, training_loss

OWN = """
import torch
from ctxtune.losses import ContextualLoss

class Simple(torch.nn.Module):
    def __init__(self, scale, shift=0.5, norm=torch.nn.Identity()):
        super().__init__()
        self.scale, self.shift = scale, shift

    def forward(self, embeddings, labels):
        return self.scale * (embeddings - self.shift).square().mean()

class WithProxies(torch.nn.Module):
    def __init__(self, num_classes, embedding_size, **others):
        super().__init__()
        self.proxies = torch.nn.Parameter(torch.zeros(num_classes, embedding_size))
        self.others = others

    def forward(self, embeddings, labels, indices_tuple=None, ref_emb=None, ref_labels=None):
        self.seen = indices_tuple, ref_emb, ref_labels
        return (embeddings - self.proxies[labels]).square().mean()

class Doubled(ContextualLoss):
    def forward(self, embeddings, labels, indices_tuple=None, ref_emb=None, ref_labels=None):
        return 2 * super().forward(embeddings, labels, indices_tuple, ref_emb, ref_labels)

def no_class():
    pass
"""


class TestOwnLoss:
    @pytest.fixture(autouse=True)
    def _module(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
        (tmp_path / "my_own_losses.py").write_text(OWN)
        monkeypatch.syspath_prepend(str(tmp_path))
        yield
        sys.modules.pop("my_own_losses", None)

    def test_options_come_from_its_signature(self) -> None:
        settings = LossSettings(name="my_own_losses:Simple", scale=2.0)
        assert settings.model_dump()["shift"] == 0.5
        assert "norm" not in settings.model_dump()
        embeddings, labels = batch(8)
        value, terms = training_loss(name="my_own_losses:Simple", scale=2.0, shift=0.0)(embeddings, labels)
        assert torch.isclose(value, 2.0 * embeddings.square().mean())
        assert torch.isclose(terms["loss_Simple"], value)

    def test_a_subclass_of_ours_that_computes_otherwise_is_called(self) -> None:
        embeddings, labels = batch(32)
        ours, _ = training_loss(name="contextual")(embeddings, labels)
        doubled, terms = training_loss(name="my_own_losses:Doubled", regularizer_weight=0.0)(embeddings, labels)
        torch.testing.assert_close(doubled, 2 * ours)
        torch.testing.assert_close(terms["loss_Doubled"], doubled.detach())

    def test_sizes_miner_memory_and_contextual_term(self) -> None:
        name = "my_own_losses:WithProxies"
        loss = training_loss(0.1, name=name, color="red", miner="batch_hard", memory={"size": 48}, contextual={"k": 2})
        embeddings, labels = batch(24)
        _, terms = loss(embeddings, labels)
        assert {"loss_WithProxies", "loss_contextual", "loss_regularizer"} < set(terms)
        own: Any = next(module for module in loss.modules() if type(module).__name__ == "WithProxies")
        assert own.others == {"color": "red"}
        assert own.proxies.shape == (8, 16)
        assert any(parameter is own.proxies for parameter in loss.parameters())
        indices, reference, reference_labels = own.seen
        assert len(indices) in (3, 4)
        assert torch.equal(reference, embeddings)
        assert torch.equal(reference_labels, labels)

    @pytest.mark.parametrize(
        ("loss", "words"),
        [
            ({"name": "my_own_losses:Missing"}, "has no 'Missing'"),
            ({"name": "my_own_losse:Simple"}, "cannot import 'my_own_losse'"),
            ({"name": "my_own_losses:no_class"}, "no torch.nn.Module class"),
            ({"name": "my_own_losses:"}, "package.module:Class"),
            ({"name": "my_own_losses:Simple"}, "required"),
            ({"name": "my_own_losses:Simple", "scale": 1.0, "shfit": 1.0}, 'did you mean "shift"'),
            ({"name": "my_own_losses:Simple", "scale": 1.0, "miner": "batch_hard"}, "takes no miner"),
        ],
        ids=str,
    )
    def test_refused(self, loss: dict[str, Any], words: str) -> None:
        with pytest.raises(ValueError, match=words):
            LossSettings(**loss)

    def test_a_size_that_nobody_knows(self) -> None:
        with pytest.raises(ValueError, match="needs num_classes"):
            build_loss("my_own_losses:WithProxies")
