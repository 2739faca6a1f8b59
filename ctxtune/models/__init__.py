"""Embedding models: backbone, pooling, embedding head, training-only projector."""

from typing import TYPE_CHECKING

from ctxtune.lazy_names import lazy_names
from ctxtune.models.settings import ModelSettings, backbone_names

if TYPE_CHECKING:
    from ctxtune.models.embedding_model import EmbeddingModel, build_head, build_model

__all__ = ["EmbeddingModel", "ModelSettings", "backbone_names", "build_head", "build_model"]
__getattr__ = lazy_names(
    __name__,
    {"EmbeddingModel": ".embedding_model", "build_head": ".embedding_model", "build_model": ".embedding_model"},
)
