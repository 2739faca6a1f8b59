import subprocess
import sys

import pytest

from ctxtune.errors import TrackingError
from ctxtune.tracking import absolute_uri, flatten, redact, run_environment
from ctxtune.tracking.addresses import has_secret, redact_text
from ctxtune.tracking.values import clean_name, parameter_texts, shorten


def test_nested_settings_become_dotted_names() -> None:
    nested = {"loss": {"name": "contextual", "k": 4, "contrastive_weight": None, "inner": {"x": 0.5}}, "strict": True}
    assert flatten(nested) == {
        "loss.name": "contextual",
        "loss.k": 4,
        "loss.contrastive_weight": "null",
        "loss.inner.x": 0.5,
        "strict": "true",
    }


def test_lists_and_empty_mappings_become_json() -> None:
    assert flatten({"a": [1, 2], "b": (0.5,), "c": {}, "d": [{"e": None}]}) == {
        "a": "[1, 2]",
        "b": "[0.5]",
        "c": "{}",
        "d": '[{"e": null}]',
    }


def test_overlong_parameters_say_how_long_they_were() -> None:
    text = parameter_texts({"long": "x" * 10_000})["long"]
    assert len(text) == 6000
    assert text.endswith("[cut; 10000 characters in all]")
    assert shorten("short", 6000) == "short"


@pytest.mark.parametrize(
    ("name", "cleaned"),
    [
        ("validation/map_at_r", "validation/map_at_r"),
        ("recall@1", "recall_1"),
        ("a//b/", "a/b"),
        ("../x", "x"),
        ("é", "_"),
        ("", "_"),
    ],
)
def test_names_are_what_mlflow_takes(name: str, cleaned: str) -> None:
    from mlflow.utils.validation import _validate_metric_name

    assert clean_name(name) == cleaned
    _validate_metric_name(clean_name(name))


def test_relative_sqlite_is_bound_to_the_working_directory(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute_uri("sqlite:///mlflow.db") == f"sqlite:///{tmp_path}/mlflow.db"
    assert absolute_uri("sqlite:////elsewhere/mlflow.db") == "sqlite:////elsewhere/mlflow.db"
    assert absolute_uri("http://server:5000") == "http://server:5000"


@pytest.mark.parametrize(
    "uri", ["", "mlruns", "file:///tmp/mlruns", "sqlite://", "sqlite:///", "http://", "http://x y", "https://h:99999"]
)
def test_impossible_uris_are_refused(uri: str) -> None:
    with pytest.raises(TrackingError, match=r"tracking\.uri"):
        absolute_uri(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "https://ada:lovelace@server:5000/mlflow",
        "postgresql://ada:lovelace@server/mlflow",
        "https://server:5000/mlflow?token=lovelace",
        "https://ada:love%2Flace@server:5000/mlflow",
    ],
)
def test_secrets_are_never_shown(uri: str) -> None:
    assert has_secret(uri)
    assert "love" not in redact(uri)
    assert "server" in redact(uri)
    for said in (f"cannot reach {uri}", "password lovelace, or love/lace, or love%2Flace: wrong"):
        shown = redact_text(said, uri)
        assert all(secret not in shown for secret in uri.replace("?token=", ":").split(":")[-2:] if "love" in secret)
    assert "lovelace" not in redact_text("lovelace", uri) or "%2F" in uri


def test_uris_without_secrets_stay_as_they_are() -> None:
    for uri in ("sqlite:////tmp/mlflow.db", "http://server:5000", "databricks"):
        assert redact(uri) == uri
        assert not has_secret(uri)


def test_environment_tells_versions_and_hardware_but_no_names(monkeypatch) -> None:
    import getpass
    import socket

    import torch

    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "lovelace")
    facts = run_environment()
    assert facts["version.torch"] == torch.__version__.split("+")[0] or facts["version.torch"] == torch.__version__
    assert int(facts["hardware.cpus"]) >= 1
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if commit.returncode == 0:
        assert facts["git.commit"] == commit.stdout.strip()
        assert facts["git.dirty"] in ("true", "false")
    everything = "\n".join(facts.values())
    assert "lovelace" not in everything
    assert "/" not in "".join(value for name, value in facts.items() if not name.startswith("hardware.cpu"))
    assert socket.gethostname() not in facts.values()
    assert getpass.getuser() not in facts.values()


def test_importing_tracking_imports_neither_mlflow_nor_ray() -> None:
    code = "import sys, ctxtune.tracking; print([m for m in ('mlflow', 'ray', 'optuna', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("uri", ["sqlite://mlflow.db", "sqlite:mlflow.db", "sqlite:/mlflow.db", "sqlite://"])
def test_a_store_without_its_three_slashes_is_refused_with_the_right_form(uri):
    with pytest.raises(TrackingError, match=r"write sqlite:///mlflow\.db or sqlite:////FOLDER/mlflow\.db"):
        absolute_uri(uri)
