"""The chosen model and the data set as MLflow knows them, read back with MLflow itself; nothing is lost or doubled."""

import io
import json

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.entities import LoggedModelStatus
from PIL import Image

from ctxtune.data.settings import ImageSettings
from ctxtune.models import ModelSettings, build_model
from ctxtune.models.preprocessing import Preprocessing
from ctxtune.tracking import Tracker, package_model, replay, tracked_dataset
from ctxtune.tracking.errors import Refused
from ctxtune.tracking.model_package import deliver_model
from tests.helpers.tracking import new_store

VIEW = ImageSettings(test_resize=36, test_crop=32, train_crop=32)
BLOCK = {"name": "class_folders", "root": "/photographs", "label_noise": 0.2}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_model(ModelSettings(backbone="small_conv", width=8, embedding_dim=16, weights=None)).eval()


@pytest.fixture(scope="module")
def package(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packaged") / "model"
    package_model(model, VIEW, folder)
    return folder


def pictures(count: int) -> list[bytes]:
    contents = []
    for seed in range(count):
        pixels = np.random.default_rng(seed).integers(0, 255, (40 + seed, 50, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        contents.append(buffer.getvalue())
    return contents


def spool(uri: str, folder, package) -> None:
    """What a sweep logs, kept for later: its server cannot be reached."""
    tracker = Tracker(uri, "photographs", folder, deliver=False)
    tracker.start_run("sweep", name="photographs", kind="sweep")
    tracker.log_dataset("sweep", tracked_dataset(BLOCK, "f" * 64))
    tracker.log_model("sweep", package, "photographs 1.0/x-3f2a")
    tracker.end_run("sweep", "completed")
    tracker.close(timeout=0)


def test_both_arrive_once_however_often_they_are_sent(tmp_path, model, package):
    uri = new_store(tmp_path)
    for number in range(2):  # a second spool, as after a lost one
        spool(uri, tmp_path / f"spool{number}", package)
        replay(tmp_path / f"spool{number}")
        assert list((tmp_path / f"spool{number}" / "files").iterdir()) == []
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("photographs").experiment_id
    (run,) = client.search_runs([experiment])
    (dataset,) = run.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.tags[0].value) == ("class_folders", "training")
    assert json.loads(dataset.dataset.profile) == BLOCK
    source = mlflow.data.get_source(mlflow.entities.Dataset(**dict(dataset.dataset)))
    assert source.to_dict() == {"uri": "/photographs"}
    (logged,) = client.search_logged_models([experiment])
    assert logged.status == LoggedModelStatus.READY and logged.source_run_id == run.info.run_id
    assert [output.model_id for output in run.outputs.model_outputs] == [logged.model_id]
    mlflow.set_tracking_uri(uri)
    loaded = mlflow.pyfunc.load_model(f"models:/{logged.model_id}")
    assert loaded.metadata.signature.inputs.input_names() == ["image"]
    contents = pictures(40)
    found = loaded.predict(pd.DataFrame({"image": contents}))
    preparation = Preprocessing(resize=36, crop=32)
    with torch.no_grad():
        expected = model(preparation([Image.open(io.BytesIO(content)) for content in contents])).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_pictures_of_different_sizes_need_no_crop(model, tmp_path):
    package_model(model, ImageSettings(test_resize=(24, 24), test_crop=None, train_crop=24), tmp_path / "model")
    found = mlflow.pyfunc.load_model(str(tmp_path / "model")).predict(pd.DataFrame({"image": pictures(3)}))
    assert found.shape == (3, 16) and found.dtype == np.float32


def test_a_server_that_knows_no_models_gets_the_folder(package):
    asked = []

    class Old:
        def search_logged_models(self, *_: object) -> None:
            raise Refused("ENDPOINT_NOT_FOUND")

        def log_artifacts(self, *arguments: object) -> None:
            asked.append(arguments)

    deliver_model(Old(), lambda call: call(), "1", "run", "a name", package)
    assert asked == [("run", str(package), "a-name")]


def test_data_without_a_folder_have_a_digest_too(tmp_path):
    glyphs = tracked_dataset({"name": "glyphs", "image_size": 32}, "")
    assert glyphs.place == "" and len(glyphs.digest) == 16
    assert glyphs.digest != tracked_dataset({"name": "glyphs", "image_size": 24}, "").digest
    assert tracked_dataset(BLOCK, "a").digest != tracked_dataset(BLOCK, "b").digest
