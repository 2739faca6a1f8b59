"""An exported model as MLflow loads it (`loader_module`): image files in, embeddings out."""

import io
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from ctxtune.models.exported import ExportedModel, load_exported

COLUMN = "image"
"""Of the table that is asked about: the bytes of image files."""
AT_A_TIME = 32


class ServedModel:
    """What `mlflow.pyfunc` calls."""

    def __init__(self, model: ExportedModel) -> None:
        self._model = model

    def predict(self, model_input: Mapping[str, Iterable[bytes]], params: object = None) -> npt.NDArray[np.float32]:
        """The embeddings (n, d), not normalized, of the image files in the column `image`."""
        contents = [bytes(content) for content in model_input[COLUMN]]
        step = 1 if self._model.preprocessing.crop is None else AT_A_TIME  # without a crop sizes may differ
        parts = [
            self._model.embed([Image.open(io.BytesIO(content)) for content in contents[start : start + step]])
            for start in range(0, len(contents), step)
        ]
        return torch.cat(parts).numpy() if parts else np.empty((0, 0), dtype=np.float32)


def _load_pyfunc(path: str) -> ServedModel:
    """Called by MLflow with the place of the exported file, or of the folder that holds it."""
    place = Path(path)
    return ServedModel(load_exported(next(place.glob("*.pt")) if place.is_dir() else place))
