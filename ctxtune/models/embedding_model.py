"""The embedding model: backbone, pooling, embedding head, and a projector that only training uses."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ctxtune.errors import CtxtuneError
from ctxtune.models.backbones import build_backbone
from ctxtune.models.partial_training import blocks, prepare_training
from ctxtune.models.pooling import build_pooling
from ctxtune.models.settings import ModelSettings
from ctxtune.models.weights import load_weights

FROZEN_SEED = 0
"""Draws the weights of a frozen backbone that has none: the same in all runs, so that its features can be shared."""


class EmbeddingModel(nn.Module):
    """Images to embeddings; `build_model` makes one.

    `embedding_dim`: dimensions of the embeddings; `training_dim`: dimensions of what `project` gives, which the loss
    sees (the projector's, or those of the embedding where there is none).

    Without a backbone (None) it is the head alone: what goes in are pooled features (b, channels) in place of images.
    """

    def __init__(self, settings: ModelSettings, backbone: nn.Module | None, channels: int) -> None:
        super().__init__()
        self._trained = None if backbone is None else prepare_training(settings, backbone)
        self.settings = settings
        self.embedding_dim = settings.embedding_dim
        self.training_dim = settings.projector_dim or settings.embedding_dim
        self.backbone = nn.Identity() if backbone is None else backbone
        self.pooling: nn.Module = (
            nn.Identity()
            if backbone is None
            else build_pooling(settings.pooling, gem_power=settings.gem_power, gem_trainable=settings.gem_trainable)
        )
        self.normalization: nn.Module = (
            nn.LayerNorm(channels, elementwise_affine=settings.layer_norm_affine)
            if settings.layer_norm
            else nn.Identity()
        )
        self.embedding = nn.Linear(channels, settings.embedding_dim)
        if settings.embedding_init == "kaiming_normal":
            nn.init.kaiming_normal_(self.embedding.weight, mode="fan_out")
            nn.init.zeros_(self.embedding.bias)
        self.projector: nn.Linear | None = (
            nn.Linear(settings.embedding_dim, settings.projector_dim, bias=False) if settings.projector_dim else None
        )
        self.set_backbone_trainable(True)

    def forward(self, images: Tensor) -> Tensor:
        """Embed (b, 3, h, w) as (b, embedding_dim), float32 and not normalized."""
        pooled = self.normalization(self.features(images))
        return _at_least_float32(self.embedding(pooled))

    def features(self, images: Tensor) -> Tensor:
        """What the head sees: (b, 3, h, w) to (b, channels)."""
        features: Tensor = self.pooling(self.backbone(images))
        return features

    def project(self, embeddings: Tensor) -> Tensor:
        """What the loss sees: (b, embedding_dim) to (b, training_dim), float32.

        With a projector its L2-normalized output (rows of zeros stay zeros), without one the embeddings themselves.
        """
        if self.projector is None:
            return embeddings
        return F.normalize(_at_least_float32(self.projector(embeddings)), dim=1)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The parameters that training may change, by optimizer group: backbone, embedding (the head), projector.

        Frozen affine parameters of batch norm and a fixed GeM power are in none. What `set_backbone_trainable` has
        frozen for a while stays in its group.
        """
        head = [self.pooling, self.normalization, self.embedding]
        return {
            "backbone": self._trainable_backbone_parameters(),
            "embedding": [p for module in head for p in module.parameters() if p.requires_grad],
            "projector": [] if self.projector is None else list(self.projector.parameters()),
        }

    def set_backbone_trainable(self, trainable: bool) -> None:
        """Freeze the backbone's parameters (head warm-up), or let those train that `batch_norm` does not freeze."""
        for parameter in self.backbone.parameters():
            parameter.requires_grad_(False)
        for parameter in self._trainable_backbone_parameters():
            parameter.requires_grad_(trainable)

    def freeze_batch_norm(self) -> None:
        """Put the backbone's batch norm layers in evaluation mode: they normalize by, and keep, their statistics."""
        for layer in self._batch_norm_layers():
            layer.eval()

    def train(self, mode: bool = True) -> "EmbeddingModel":
        """Set training mode; batch norm stays frozen where `batch_norm` says so, and what never trains stays as it is."""
        super().train(mode)
        if mode and self.settings.batch_norm != "trained":
            self.freeze_batch_norm()
        if mode and self._trained is not None:
            _evaluate_all_but({id(p) for p in self._trainable_backbone_parameters()}, self.backbone)
        return self

    def layered_backbone_parameters(self) -> list[list[nn.Parameter]]:
        """The backbone's parameters that training may change, block by block from the input to the output."""
        trained = {id(parameter) for parameter in self._trainable_backbone_parameters()}
        named = dict(self.backbone.named_parameters())
        return [[named[name] for name in block if id(named[name]) in trained] for block in blocks(self.backbone)]

    def trained_state(self) -> dict[str, Tensor]:
        """The part of the state that `model.weights` does not already hold: what training changes.

        All of it where the whole backbone trains, or where what is frozen came from no file.
        """
        kept = self._kept_names()
        return {name: value for name, value in self.state_dict().items() if name in kept}

    def load_trained_state(self, state: Mapping[str, Tensor]) -> None:
        """Take in what `trained_state` gave. Raises CtxtuneError where it is the state of another model."""
        missing, unexpected = self.load_state_dict(state, strict=False)
        lacking = [name for name in missing if name in self._kept_names()]
        if lacking or unexpected:
            found = [
                f"{len(names)} {what}, such as {names[0]}"
                for names, what in ((lacking, "missing"), (unexpected, "unexpected"))
                if names
            ]
            raise CtxtuneError(f"the state is that of another model: {'; '.join(found)}")

    def _kept_names(self) -> set[str]:
        names = set(self.state_dict())
        if self.settings.train == "head":
            return {name for name in names if not name.startswith(("backbone.", "pooling."))}
        if self._trained is None or self.settings.weights is None:
            return names
        trained = {f"backbone.{name}" for name in self._trained}
        modules = {name.rpartition(".")[0] for name in trained}
        parameters = {name for name, _ in self.named_parameters()}
        return {
            name
            for name in names
            if not name.startswith("backbone.")
            or name in trained
            or (name not in parameters and name.rpartition(".")[0] in modules)
        }

    def _batch_norm_layers(self) -> list[_BatchNorm]:
        return [module for module in self.backbone.modules() if isinstance(module, _BatchNorm)]

    def _trainable_backbone_parameters(self) -> list[nn.Parameter]:
        frozen: set[int] = set()
        if self.settings.batch_norm == "frozen":
            frozen = {id(parameter) for layer in self._batch_norm_layers() for parameter in layer.parameters()}
        return [
            parameter
            for name, parameter in self.backbone.named_parameters()
            if id(parameter) not in frozen and (self._trained is None or name in self._trained)
        ]


def _evaluate_all_but(trained: set[int], module: nn.Module) -> None:
    """Put into evaluation mode what holds parameters of which none trains: no statistics move, nothing is dropped."""
    parameters = list(module.parameters())
    if parameters and not any(id(parameter) in trained for parameter in parameters):
        module.eval()
        return
    for child in module.children():
        _evaluate_all_but(trained, child)


def _at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def build_model(
    settings: ModelSettings, *, image_size: int | None = None, load_pretrained: bool = True
) -> EmbeddingModel:
    """Build the model that `settings` describe, in training mode, on the CPU, in float32.

    `image_size`: side in px of the images it will see, for models made for one size (ViT, MaxViT; default 224).
    `load_pretrained=False` leaves `settings.weights` unread, for a caller that loads a checkpoint next.
    Fresh parameters are drawn from torch's global generator: seed it first. Raises ConfigError where the weights
    cannot be had or do not fit, or the backbone cannot take images of that size.
    """
    if settings.train == "head":
        with torch.random.fork_rng([]):  # the head of a run must not depend on whether its backbone was ever built
            torch.manual_seed(FROZEN_SEED)
            backbone, channels = build_backbone(settings, image_size)
    else:
        backbone, channels = build_backbone(settings, image_size)
    if settings.weights is not None and load_pretrained:
        load_weights(backbone, settings)
    return EmbeddingModel(settings, backbone, channels).train()


def build_head(settings: ModelSettings, channels: int) -> EmbeddingModel:
    """The head alone, for features (b, channels) that are computed beforehand; drawn as `build_model` draws them."""
    return EmbeddingModel(settings, None, channels).train()
