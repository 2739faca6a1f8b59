"""Embedding models: backbone, pooling, embedding head, training-only projector."""

from ctxtune.models.embedding_model import EmbeddingModel, build_head, build_model
from ctxtune.models.settings import ModelSettings, backbone_names

__all__ = ["EmbeddingModel", "ModelSettings", "backbone_names", "build_head", "build_model"]
