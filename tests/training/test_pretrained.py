"""`python -m ctxtune.train` with `weights: pretrained`, from a hub on the loopback, as a user runs it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import trees
from tests.helpers.hub import REVISION, publish, repository_of, running_hub
from tests.helpers.processes import PATIENCE, environment

NAME = "test_efficientnet"


def command(folder: Path, number: int, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "ctxtune.train", "file.yaml", "--results", str(folder / f"results{number}"), *more,
    ]  # fmt: skip


def variables(folder: Path, address: str, home: str) -> dict[str, str]:
    return {"HF_ENDPOINT": address, "HF_HOME": str(folder / home), "HF_HUB_OFFLINE": "0", "HF_TOKEN": ""}


def result_of(folder: Path, number: int) -> dict:
    (path,) = (folder / f"results{number}").rglob("result.json")
    return json.loads(path.read_text())


@pytest.mark.slow
def test_two_runs_fetch_the_weights_once_and_a_third_needs_no_hub(repository, tmp_path):
    trees.class_folders(tmp_path / "data", {"train": 8, "test": 2}, images=4)
    (tmp_path / "file.yaml").write_text(f"""
name: small
trial:
  dataset: {{name: class_folders, root: {tmp_path / "data"}}}
  model: {{backbone: timm/{NAME}, weights: pretrained, embedding_dim: 8, projector_dim: null}}
  image: {{train_crop: 32, test_resize: 32, test_crop: 32}}
  sampler: {{batch_size: 8}}
  schedule: {{name: constant, epochs: 1}}
  evaluation: {{every: 1, recall_at: [1]}}
validation: {{folds: 2}}
""")
    publish(NAME, tmp_path / "hub")
    with running_hub(tmp_path / "hub") as hub:
        env = environment(repository, **variables(tmp_path, hub.address, "home"))
        together = [
            subprocess.Popen(command(tmp_path, number), cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True)
            for number in range(2)
        ]
        for process in together:
            assert process.wait(timeout=PATIENCE) == 0, process.stderr.read()
        assert len(hub.sent) == 1
    done = subprocess.run(command(tmp_path, 2), cwd=tmp_path, env=env, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    results = [result_of(tmp_path, number) for number in range(3)]
    assert {result["weights"]["model.weights_source"] for result in results} == {f"{repository_of(NAME)}@{REVISION}"}
    assert len({result["weights"]["model.weights_sha256"] for result in results}) == 1
    assert results[0]["metrics"]["train/loss"] == results[2]["metrics"]["train/loss"]
    env |= variables(tmp_path, hub.address, "other_home")
    done = subprocess.run(command(tmp_path, 3), cwd=tmp_path, env=env, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 2
    assert "model.weights: /path/to/model.safetensors" in done.stderr
    assert "Traceback" not in done.stderr
