"""Mistakes around clusters, told before anything is asked of one."""

import pytest

from ctxtune.config import load_search_space
from ctxtune.errors import ConfigError
from ctxtune.tuning.backend.client import require_token
from ctxtune.tuning.backend.connect import usable_storage
from ctxtune.tuning.startup import checked_place

QUICKSTART = "search_spaces/quickstart.yaml"


@pytest.mark.parametrize("content", [None, "", " \n"])
def test_token_mode_without_a_token_names_the_file_and_both_variables(tmp_path, monkeypatch, content):
    file = tmp_path / "token"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    with pytest.raises(ConfigError, match="RAY_AUTH_TOKEN_PATH") as error:
        require_token("127.0.0.1:1")
    assert str(file) in str(error.value) and "RAY_AUTH_TOKEN" in str(error.value)


def test_in_a_ray_job_nothing_that_is_to_stay_may_lie_in_its_working_directory(repository, tmp_path, monkeypatch):
    here = tmp_path / "runtime_resources/working_dir_files/_ray_pkg_0"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    stays = tmp_path / "volume"
    file = str(repository / QUICKSTART)
    database = load_search_space(file, ["tracking.uri=sqlite:///mlflow.db"])
    with pytest.raises(ConfigError, match=r"tracking\.uri.*Ray deletes"):
        checked_place(database, (), stays, "somewhere:1", None)
    server = load_search_space(file, ["tracking.uri=http://mlflow:5000"])
    with pytest.raises(ConfigError, match=r"--results.*Ray deletes"):
        checked_place(server, (), here / "results", "somewhere:1", None)
    assert checked_place(server, (), stays, "somewhere:1", None).address == "somewhere:1"


def test_a_storage_that_cannot_be_written_is_told_by_dry_runs_too():
    with pytest.raises(ConfigError, match="cannot be written"):
        usable_storage("/proc/nope")
    assert usable_storage(None) is None


def test_gpu_hours_are_no_budget_of_runs_without_a_gpu(repository):
    with pytest.raises(ConfigError, match=r"budget\.gpu_hours.*resources\.gpus is 0.*budget\.hours"):
        load_search_space(str(repository / QUICKSTART), ["search.budget.gpu_hours=1", "resources.gpus=0"])
