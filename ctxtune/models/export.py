"""The embedding model as one file for use elsewhere: TorchScript, torch.export or ONNX, with its preprocessing.

Beside FILE stands FILE.json: how images are prepared, shapes, and the model's settings. The same text is inside the
file (TorchScript and torch.export: extra file `ctxtune.json`; ONNX: metadata property `ctxtune`), so that the file
alone is enough for `load_exported`.
"""

import copy
import importlib
import io
import json
import tempfile
import warnings
from pathlib import Path
from types import ModuleType
from typing import Literal

import torch
from torch import Tensor, nn

from ctxtune.durable_files import named, write_whole
from ctxtune.errors import ConfigError, CtxtuneError
from ctxtune.models.embedding_model import EmbeddingModel
from ctxtune.models.exported import METADATA_FILE, METADATA_PROPERTY, ExportedModel, load_exported, sidecar
from ctxtune.models.preprocessing import Preprocessing
from ctxtune.version import __version__
from ctxtune.yaml_text import Tree

Format = Literal["torchscript", "torch_export", "onnx"]
_FORMAT_OF_SUFFIX: dict[str, Format] = {
    ".pt": "torchscript",
    ".ts": "torchscript",
    ".torchscript": "torchscript",
    ".pt2": "torch_export",
    ".onnx": "onnx",
}
_TOLERANCE = 1e-3
"""Largest difference to the original that is taken for rounding, relative to the largest embedding value."""


def export_model(
    model: EmbeddingModel,
    path: Path | str,
    *,
    preprocessing: Preprocessing,
    image_size: int | tuple[int, int] | None = None,
    normalized: bool = False,
) -> Path:
    """Write `model` (without its projector, in evaluation mode, float32) to `path`, and check what was written.

    The file maps normalized images (batch, 3, h, w) to embeddings (batch, embedding_dim), for any batch size.
    `image_size`: h and w in px, default the size after `preprocessing`. The suffix of `path` chooses the format: .pt, .ts
    or .torchscript; .pt2 (torch.export); .onnx. `normalized`: L2-normalize the embeddings inside the file.

    Returns the path. Raises ConfigError: no known format, no package for ONNX, no fixed image size, or a model that
    the format cannot express; RuntimeError where the file, read again, gives other embeddings than the model.
    """
    path = Path(path)
    chosen = _format_for(path)
    height, width = _image_size(preprocessing, image_size)
    embedder = _Embedder(model, normalized)
    example = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    metadata = _metadata(model, chosen, preprocessing, (height, width), normalized)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        written = Path(folder) / path.name
        with named(path):
            _write(chosen, embedder, example, written, metadata)
        write_whole(sidecar(path), metadata + "\n")
        written.replace(path)
    _verify(path, embedder, (height, width))
    return path


class _Embedder(nn.Module):
    """A copy of the model on the CPU that knows evaluation only."""

    def __init__(self, model: EmbeddingModel, normalized: bool) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).cpu().float()
        self.model.projector = None
        self.normalized = normalized
        self.requires_grad_(False)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        embeddings = self.model(images)
        return nn.functional.normalize(embeddings, dim=1) if self.normalized else embeddings


def _format_for(path: Path) -> Format:
    if path.suffix not in _FORMAT_OF_SUFFIX:
        raise ConfigError(
            f"{path}: the suffix {path.suffix!r} stands for no export format; use one of "
            f"{', '.join(f'{suffix} ({name})' for suffix, name in _FORMAT_OF_SUFFIX.items())}"
        )
    return _FORMAT_OF_SUFFIX[path.suffix]


def _image_size(preprocessing: Preprocessing, image_size: int | tuple[int, int] | None) -> tuple[int, int]:
    size = image_size or preprocessing.crop
    if size is None and not isinstance(preprocessing.resize, int):
        size = preprocessing.resize
    if size is None:
        raise ConfigError(
            "the size of the exported model's images is open: give image_size, or a preprocessing with crop or with "
            "a resize to [height, width]"
        )
    return (size, size) if isinstance(size, int) else size


def _metadata(
    model: EmbeddingModel, chosen: Format, preprocessing: Preprocessing, size: tuple[int, int], normalized: bool
) -> str:
    content: Tree = {
        "format": chosen,
        "ctxtune": __version__,
        "torch": torch.__version__,
        "input": {"name": "images", "type": "float32", "shape": ["batch", 3, *size], "channels": "RGB"},
        "output": {"name": "embeddings", "type": "float32", "shape": ["batch", model.embedding_dim]},
        "normalized": normalized,
        "preprocessing": preprocessing.model_dump(mode="json"),
        "model": model.settings.model_dump(mode="json"),
    }
    return json.dumps(content, indent=2)


def _write(chosen: Format, embedder: _Embedder, example: Tensor, path: Path, metadata: str) -> None:
    writer = {"torchscript": _write_torchscript, "torch_export": _write_torch_export, "onnx": _write_onnx}[chosen]
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations of the exporters: nothing a user could change
            writer(embedder, example, path, metadata)
    except (CtxtuneError, OSError):
        raise
    except Exception as error:  # exporters raise whatever their tracing meets
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        backbone = embedder.model.settings.backbone
        raise ConfigError(f"{backbone} cannot be written as {chosen}: {reason}") from error


def _write_torchscript(embedder: nn.Module, example: Tensor, path: Path, metadata: str) -> None:
    traced = torch.jit.trace(embedder, example, check_trace=False)
    content = io.BytesIO()  # on a full disk torch's own writer of files ends the process
    torch.jit.save(traced, content, _extra_files={METADATA_FILE: metadata})
    path.write_bytes(content.getbuffer())


def _write_torch_export(embedder: nn.Module, example: Tensor, path: Path, metadata: str) -> None:
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(embedder, (example,), dynamic_shapes=({0: batch},))
    content = io.BytesIO()  # as above
    torch.export.save(program, content, extra_files={METADATA_FILE: metadata})
    path.write_bytes(content.getbuffer())


def _write_onnx(embedder: nn.Module, example: Tensor, path: Path, metadata: str) -> None:
    onnx = _package("onnx")
    _package("onnxscript")
    batch = torch.export.Dim("batch", min=1)
    names: Tree = {"input_names": ["images"], "output_names": ["embeddings"]}
    torch.onnx.export(
        embedder, (example,), str(path), dynamo=True, dynamic_shapes=({0: batch},), external_data=False, verbose=False,
        **names,
    )  # fmt: skip
    written = onnx.load(str(path))
    entry = written.metadata_props.add()
    entry.key, entry.value = METADATA_PROPERTY, metadata
    onnx.save(written, str(path))


def _package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"writing ONNX needs the package {name}, which is not installed: pip install onnx onnxscript onnxruntime, "
            "or export to .pt2 or .pt instead"
        ) from error


def _verify(path: Path, embedder: _Embedder, size: tuple[int, int]) -> None:
    """Read the file again and compare it with the model, on a batch size that it was not traced with."""
    try:
        exported: ExportedModel = load_exported(path)
    except ConfigError:
        return  # only for want of onnxruntime
    images = torch.randn(3, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = embedder(images)
    difference = (exported(images) - expected).abs().max() / expected.abs().max().clamp(min=1e-12)
    if not difference < _TOLERANCE:
        raise RuntimeError(f"{path}: what was written gives other embeddings (relative difference {difference:.2g})")
