"""An embedding model as an MLflow model: a folder with signature that `mlflow.pyfunc.load_model` reads, and its delivery."""

import re
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from ctxtune.tracking.duplicates import Ask
from ctxtune.tracking.errors import Refused
from ctxtune.version import __version__

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from ctxtune.data import ImageSettings
    from ctxtune.models import EmbeddingModel

EXPORTED = "model.pt"
KIND = "embedding"


def package_model(model: "EmbeddingModel", view: "ImageSettings", folder: Path) -> None:
    """Write a model into a new folder as MLflow keeps models: image files in, embeddings out; nothing in it is pickled.

    Args:
        view: how pictures are prepared.

    Raises:
        ConfigError: the model cannot be exported.
        RuntimeError: what was exported gives other embeddings.
    """
    import numpy as np
    from mlflow import pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    from ctxtune.models.export import export_model
    from ctxtune.models.preprocessing import Preprocessing
    from ctxtune.models.served import COLUMN

    signature = ModelSignature(
        inputs=Schema([ColSpec("binary", COLUMN)]),
        outputs=Schema([TensorSpec(np.dtype("float32"), (-1, model.embedding_dim))]),
    )
    preparation = Preprocessing(
        resize=view.test_resize,
        crop=view.test_crop,
        interpolation=view.filter,
        mean=view.pixel_mean,
        deviation=view.pixel_deviation,
    )
    size = view.test_crop or (view.test_resize if isinstance(view.test_resize, tuple) else None)
    with tempfile.TemporaryDirectory() as place:
        exported = export_model(model, Path(place) / EXPORTED, preprocessing=preparation, image_size=size)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an example of an image would say no more than the signature
            pyfunc.save_model(
                str(folder),
                loader_module="ctxtune.models.served",
                data_path=str(exported),
                signature=signature,
                pip_requirements=[f"ctxtune=={__version__}"],
            )


def deliver_model(
    client: "MlflowClient",
    ask: Ask,
    experiment_id: str,
    run_id: str,
    name: str,
    folder: Path,
) -> None:
    """Log a folder of `package_model` as a model of a run; one that is there already is left as it is.

    A server that knows no models (MLflow 2) gets the folder as an artifact of the run.

    Raises:
        Unreachable, Refused: as `ask` does.
    """
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus

    name = re.sub(r"[^A-Za-z0-9_-]+", "-", name)
    mine = f"source_run_id = '{run_id}' AND name = '{name}'"
    try:
        found = list(ask(lambda: client.search_logged_models([experiment_id], mine)))
        model = (
            found[0] if found else ask(lambda: client.create_logged_model(experiment_id, name, run_id, model_type=KIND))
        )
    except Refused:
        ask(lambda: client.log_artifacts(run_id, str(folder), name))
        return
    if model.status != LoggedModelStatus.READY:
        ask(lambda: client.log_model_artifacts(model.model_id, str(folder)))
        ask(lambda: client.finalize_logged_model(model.model_id, LoggedModelStatus.READY))
    outputs = ask(lambda: client.get_run(run_id)).outputs
    if model.model_id not in [each.model_id for each in (outputs.model_outputs if outputs else [])]:
        # MLflow's database fails over one that is logged twice
        ask(lambda: client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)]))
