"""Exported embedding models, read again."""

import importlib
import json
import os
import warnings
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ctxtune.errors import ConfigError
from ctxtune.models.preprocessing import Preprocessing

METADATA_FILE = "ctxtune.json"
METADATA_PROPERTY = "ctxtune"


@dataclass(frozen=True)
class ExportedModel:
    """An exported embedding model, on the CPU, with its preprocessing.

    `metadata`: what stands in the JSON beside the file.
    """

    preprocessing: Preprocessing
    metadata: dict[str, object]
    _run: Callable[[Tensor], Tensor] = field(repr=False)

    def __call__(self, images: Tensor) -> Tensor:
        """Embed prepared images (b, 3, h, w) float32 as (b, embedding_dim) float32."""
        with torch.no_grad():
            return self._run(images)

    def embed(self, images: Sequence[Image.Image]) -> Tensor:
        """Prepare and embed pictures: (b, embedding_dim) float32."""
        return self(self.preprocessing(images))


def sidecar(path: Path | str) -> Path:
    """The JSON file beside an exported model."""
    return Path(f"{path}.json")


def load_exported(path: Path | str) -> ExportedModel:
    """Read a file that `export_model` wrote; the JSON beside it is not needed.

    Raises ConfigError: no such file, not such a file, or ONNX without onnxruntime. A file from a stranger may run
    code while it is read, as with every TorchScript or torch.export file.
    """
    path = Path(path)
    if not os.path.isfile(path):  # noqa: PTH113  # Path raises for long names
        raise ConfigError(f"there is no exported model {path}")
    text, run = _read_archive(path) if zipfile.is_zipfile(path) else _read_onnx(path)
    metadata = json.loads(text)
    return ExportedModel(Preprocessing.model_validate(metadata["preprocessing"]), metadata, run)


def _read_archive(path: Path) -> tuple[str, Callable[[Tensor], Tensor]]:
    """TorchScript and torch.export files are zip archives; which of both, the metadata inside says."""
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(f"/{METADATA_FILE}")]
        if not names:
            raise ConfigError(f"{path} was not exported by ctxtune: it holds no {METADATA_FILE}")
        text = archive.read(names[0]).decode()
    with warnings.catch_warnings(), path.open("rb") as file:
        warnings.simplefilter("ignore")  # TorchScript announces its end at every use
        if json.loads(text)["format"] == "torchscript":
            return text, torch.jit.load(file, map_location="cpu")
        return text, torch.export.load(file).module()


def _read_onnx(path: Path) -> tuple[str, Callable[[Tensor], Tensor]]:
    try:
        onnxruntime = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise ConfigError(
            f"{path} is no TorchScript or torch.export file; to read it as ONNX, pip install onnxruntime"
        ) from error
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no public base
        raise ConfigError(f"{path} is no TorchScript, torch.export or ONNX file") from error
    text = session.get_modelmeta().custom_metadata_map.get(METADATA_PROPERTY)
    if text is None:
        raise ConfigError(f"{path} was not exported by ctxtune: its metadata has no {METADATA_PROPERTY!r}")
    return text, lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
