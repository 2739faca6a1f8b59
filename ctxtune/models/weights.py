"""Weights of a backbone: those of torchvision or timm, or a local file of tensors. No file is ever unpickled."""

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ctxtune.errors import ConfigError
from ctxtune.models.backbones import VisionTransformerFeatures
from ctxtune.models.hub import hub_file, promised_sha256, require_answer
from ctxtune.models.own_backbone import OwnFeatures
from ctxtune.models.settings import TIMM, ModelSettings, is_weight_file
from ctxtune.models.timm_models import TimmFeatures, fitted, pretrained_configuration

SAFETENSORS = ".safetensors"
# Names in torchvision's DenseNet files, which predate a rule about dots in module names.
_DENSENET_OLD = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.\w+)$")


@dataclass(frozen=True)
class WeightFile:
    """Where the weights of a backbone lie on this machine.

    Attributes:
        path: of the file.
        source: where they come from, in words that tell one version from another: a hub's name with its revision, a
            library's name for them, or the file's name.
    """

    path: Path
    source: str

    @property
    def sha256(self) -> str:
        """Of the file's content."""
        status = self.path.stat()
        return _sha256(self.path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=16)
def _sha256(path: Path, size: int, changed: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def weight_file(settings: ModelSettings) -> WeightFile | None:
    """The file of `model.weights`, fetched first where it is a published one that is not here yet; None for null.

    Raises:
        ConfigError: there is no such file, or no network, or a damaged copy; it says which file to put where.
    """
    if settings.weights is None:
        return None
    if is_weight_file(settings.weights):
        path = Path(settings.weights).expanduser()
        if not os.path.isfile(path):  # noqa: PTH113  # Path raises for long names
            raise ConfigError(f"model.weights: there is no file {path} (seen from {Path.cwd()})")
        return WeightFile(path, path.name)
    if settings.backbone.startswith(TIMM):
        return _intact(WeightFile(*hub_file(settings.backbone, pretrained_configuration(settings.backbone))))
    return WeightFile(
        _download(settings.backbone, settings.weights), f"torchvision/{settings.backbone}/{settings.weights}"
    )


def _intact(file: WeightFile) -> WeightFile:
    """A file of the hub's cache whose content is what the hub said; its client compares the size only."""
    promised = promised_sha256(file.path)
    if promised is not None and file.sha256 != promised:
        raise ConfigError(
            f"model.weights: {file.path} is damaged: its SHA-256 is {file.sha256}, the hub's {promised}. Delete "
            f"{file.path.resolve()}, and it is fetched again"
        )
    return file


def weight_record(settings: ModelSettings) -> dict[str, str]:
    """What a run's record says of its weights: where they come from, and the hash of their file; nothing for null."""
    file = weight_file(settings)
    return {} if file is None else {"model.weights_source": file.source, "model.weights_sha256": file.sha256}


def load_weights(backbone: nn.Module, settings: ModelSettings) -> None:
    """Load `settings.weights` into `backbone`.

    The classifier in the file is left out. Raises ConfigError, in one message: no network or a failed download, no
    such file, not a file of tensors, or a file that does not fit this backbone.
    """
    file = weight_file(settings)
    assert file is not None
    published = not is_weight_file(settings.weights or "")
    source = file.source if published else str(settings.weights)
    state = _unwrapped(_read_file(file.path))
    if isinstance(backbone, TimmFeatures):
        state = fitted(backbone.network, settings.backbone, _without_prefixes(state, ("network.",)))
        _load(backbone.network, _of_its_parts(backbone.network, state), settings.backbone, source)
    elif isinstance(backbone, OwnFeatures):
        state = _of_its_parts(backbone.network, _without_prefixes(state, ("network.",)))
        _load(backbone.network, state, settings.backbone, source)
    else:
        _load(backbone, _prepare(backbone, state), settings.backbone, source)


def _download(name: str, weights: str) -> Path:
    from torchvision.models import get_model_weights

    entry = get_model_weights(name)[weights]
    cache = Path(torch.hub.get_dir()) / "checkpoints" / entry.url.rpartition("/")[2]
    if cache.is_file():
        return cache
    try:
        require_answer(entry.url)
        entry.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError, EOFError, UnpicklingError) as error:  # urllib's errors are OSErrors
        raise ConfigError(
            f"model.weights: {weights} of {name} could not be had from {entry.url} ({error}). Fetch that file on a "
            f"machine with a network and either put it at {cache} or name its path: model.weights: "
            f"/path/to/{cache.name}. Or train from scratch with model.weights: null"
        ) from error
    return cache


def _read_file(path: Path) -> Mapping[str, Tensor]:
    try:
        if path.suffix == SAFETENSORS:
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ConfigError(f"model.weights: there is no file {path} (seen from {Path.cwd()})") from error
    except (OSError, RuntimeError, EOFError, UnpicklingError, ValueError, SafetensorError) as error:
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


def _unwrapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the prefixes of wrappers: of several processes, of a compiled module, of our own models."""
    return _without_prefixes(state, ("module.", "_orig_mod.", "backbone."))


def _without_prefixes(state: Mapping[str, Tensor], prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    renamed = dict(state)
    for prefix in prefixes:
        if any(key.startswith(prefix) for key in renamed):
            renamed = {key.removeprefix(prefix): value for key, value in renamed.items()}
    return renamed


def _prepare(backbone: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Drop what belongs to a classifier or a head; fit a ViT's positions to its image size."""
    kept = _of_its_parts(backbone, {_DENSENET_OLD.sub(r"\1\2", key): value for key, value in state.items()})
    if isinstance(backbone, VisionTransformerFeatures) and "encoder.pos_embedding" in kept:
        from torchvision.models.vision_transformer import interpolate_embeddings

        kept = dict(interpolate_embeddings(backbone.image_size, backbone.patch_size, kept))
    return kept


def _of_its_parts(network: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those tensors whose first name is that of a part of the network: no classifier, no embedding head."""
    parts = {name.partition(".")[0] for name in network.state_dict()}
    return {key: value for key, value in state.items() if key.partition(".")[0] in parts}


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
