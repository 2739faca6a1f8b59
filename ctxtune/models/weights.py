"""Weights of a backbone: from torchvision, or from a local state_dict file."""

import re
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor, nn
from torchvision.models import get_model_weights
from torchvision.models.vision_transformer import interpolate_embeddings

from ctxtune.errors import ConfigError
from ctxtune.models.backbones import VisionTransformerFeatures
from ctxtune.models.settings import is_weight_file

# Names in torchvision's DenseNet files, which predate a rule about dots in module names.
_DENSENET_OLD = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.\w+)$")


def load_weights(backbone: nn.Module, name: str, weights: str) -> None:
    """Load `weights` (see ModelSettings.weights) into `backbone`, whose model's name is `name`.

    The classifier in the file is left out. Raises ConfigError, in one message: no network or a failed download, no
    such file, not a file of tensors, or a file that does not fit this backbone.
    """
    if is_weight_file(weights):
        state, source = _read_file(Path(weights).expanduser()), weights
    else:
        state, source = _download(name, weights), f"torchvision's {weights}"
    _load(backbone, _prepare(backbone, state), name, source)


def _download(name: str, weights: str) -> Mapping[str, Tensor]:
    entry = get_model_weights(name)[weights]
    try:
        return entry.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError, EOFError, UnpicklingError) as error:  # urllib's errors are OSErrors
        cache = Path(torch.hub.get_dir()) / "checkpoints" / entry.url.rpartition("/")[2]
        raise ConfigError(
            f"model.weights: {weights} of {name} could not be had from {entry.url} ({error}). Fetch that file on a "
            f"machine with a network and either put it at {cache} or name its path: model.weights: "
            f"/path/to/{cache.name}. Or train from scratch with model.weights: null"
        ) from error


def _read_file(path: Path) -> Mapping[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ConfigError(f"model.weights: there is no file {path} (seen from {Path.cwd()})") from error
    except (OSError, RuntimeError, EOFError, UnpicklingError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(
            f"model.weights: {path} cannot be read as a file of tensors only ({reason}). "
            "Save one with torch.save(model.state_dict(), path)"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ConfigError(f"model.weights: {path} holds no state_dict (a mapping from names to tensors)")
    return content


def _prepare(backbone: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Drop wrappers' prefixes and what belongs to a classifier or a head; fit a ViT's positions to its image size."""
    renamed = dict(state)
    for prefix in ("module.", "_orig_mod.", "backbone."):
        if any(key.startswith(prefix) for key in renamed):
            renamed = {key.removeprefix(prefix): value for key, value in renamed.items()}
    renamed = {_DENSENET_OLD.sub(r"\1\2", key): value for key, value in renamed.items()}
    parts = {name.partition(".")[0] for name in backbone.state_dict()}
    kept = {key: value for key, value in renamed.items() if key.partition(".")[0] in parts}
    if isinstance(backbone, VisionTransformerFeatures) and "encoder.pos_embedding" in kept:
        kept = dict(interpolate_embeddings(backbone.image_size, backbone.patch_size, kept))
    return kept


def _load(backbone: nn.Module, state: Mapping[str, Tensor], name: str, source: str) -> None:
    own = backbone.state_dict()
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in own]
    reshaped = [
        f"{key} ({_shape(state[key])} in the file, {_shape(own[key])} in the model)"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    troubles = [
        f"{len(keys)} {what}, such as {keys[0]}"
        for what, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped))
        if keys
    ]
    if troubles:
        raise ConfigError(f"model.weights: {source} does not fit {name}: {'; '.join(troubles)}")
    backbone.load_state_dict(state, strict=False)


def _shape(tensor: Tensor) -> str:
    return "x".join(str(size) for size in tensor.shape) or "a number"
