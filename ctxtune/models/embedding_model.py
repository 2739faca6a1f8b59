"""The embedding model: backbone, pooling, embedding head, and a projector that only training uses."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ctxtune.models.backbones import build_backbone
from ctxtune.models.pooling import build_pooling
from ctxtune.models.settings import ModelSettings
from ctxtune.models.weights import load_weights


class EmbeddingModel(nn.Module):
    """Images to embeddings; `build_model` makes one.

    `embedding_dim`: dimensions of the embeddings; `training_dim`: dimensions of what `project` gives, which the loss
    sees (the projector's, or those of the embedding where there is none).
    """

    def __init__(self, settings: ModelSettings, backbone: nn.Module, channels: int) -> None:
        super().__init__()
        self.settings = settings
        self.embedding_dim = settings.embedding_dim
        self.training_dim = settings.projector_dim or settings.embedding_dim
        self.backbone = backbone
        self.pooling = build_pooling(
            settings.pooling, gem_power=settings.gem_power, gem_trainable=settings.gem_trainable
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
        """Embed (b, 3, h, w) as (b, embedding_dim), float32 and not normalised."""
        pooled = self.normalization(self.pooling(self.backbone(images)))
        return _at_least_float32(self.embedding(pooled))

    def project(self, embeddings: Tensor) -> Tensor:
        """What the loss sees: (b, embedding_dim) to (b, training_dim), float32.

        With a projector its L2-normalised output (rows of zeros stay zeros), without one the embeddings themselves.
        """
        if self.projector is None:
            return embeddings
        return F.normalize(_at_least_float32(self.projector(embeddings)), dim=1)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The parameters that training may change, by optimiser group: backbone, embedding (the head), projector.

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
        """Put the backbone's batch norm layers in evaluation mode: they normalise by, and keep, their statistics."""
        for layer in self._batch_norm_layers():
            layer.eval()

    def train(self, mode: bool = True) -> "EmbeddingModel":
        """Set training mode; batch norm stays frozen where `batch_norm` says so."""
        super().train(mode)
        if mode and self.settings.batch_norm != "trained":
            self.freeze_batch_norm()
        return self

    def _batch_norm_layers(self) -> list[_BatchNorm]:
        return [module for module in self.backbone.modules() if isinstance(module, _BatchNorm)]

    def _trainable_backbone_parameters(self) -> list[nn.Parameter]:
        frozen: set[int] = set()
        if self.settings.batch_norm == "frozen":
            frozen = {id(parameter) for layer in self._batch_norm_layers() for parameter in layer.parameters()}
        return [parameter for parameter in self.backbone.parameters() if id(parameter) not in frozen]


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
    backbone, channels = build_backbone(settings, image_size)
    if settings.weights is not None and load_pretrained:
        load_weights(backbone, settings)
    return EmbeddingModel(settings, backbone, channels).train()
