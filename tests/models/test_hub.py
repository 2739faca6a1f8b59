"""`weights: pretrained` through the hub's own client, from a hub on the loopback that serves timm's networks."""

import types
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import HfApi
from torch import nn

from ctxtune.errors import ConfigError
from ctxtune.models import ModelSettings, build_model
from ctxtune.models.weights import weight_record
from tests.helpers.hub import REVISION, Hub, Trouble, publish, repository_of, running_hub

NAME = "test_vit"
SETTINGS = ModelSettings(backbone=f"timm/{NAME}", weights="pretrained")
Ask = Callable[[Hub], None]


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Have the client ask a hub from now on, with an empty cache, without waiting between its tries."""

    def ask(hub: Hub) -> None:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.address)
        template = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    for module in ("_http", "file_download"):
        place = f"huggingface_hub.{'utils.' if module == '_http' else ''}{module}.time"
        monkeypatch.setattr(place, types.SimpleNamespace(**vars(__import__("time")) | {"sleep": lambda seconds: None}))
    return ask


def same_weights(model: nn.Module, published: nn.Module) -> bool:
    ours, theirs = model.state_dict(), published.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_what_the_test_hub_serves_is_what_the_client_and_timm_expect(tmp_path: Path, ask: Ask) -> None:
    published = publish(NAME, tmp_path / "hub")
    with running_hub(tmp_path / "hub") as hub:
        ask(hub)
        about = HfApi(endpoint=hub.address).model_info(repository_of(NAME))
        assert about.sha == REVISION
        assert {file.rfilename for file in about.siblings or ()} == {"model.safetensors", "config.json"}
        assert same_weights(timm.create_model(NAME, pretrained=True), published)


def test_pretrained_weights_are_fetched_once_and_recorded_with_their_revision(tmp_path: Path, ask: Ask) -> None:
    published = publish(NAME, tmp_path / "hub")
    with running_hub(tmp_path / "hub") as hub:
        ask(hub)
        assert same_weights(build_model(SETTINGS, image_size=160).backbone.network, published)
        assert len(hub.sent) == 1
    record = weight_record(SETTINGS)  # the hub is gone: from the cache
    assert record["model.weights_source"] == f"{repository_of(NAME)}@{REVISION}"
    assert len(record["model.weights_sha256"]) == 64
    assert same_weights(build_model(SETTINGS, image_size=160).backbone.network, published)


def test_weights_that_are_published_in_torchs_format_only_are_found(tmp_path: Path, ask: Ask) -> None:
    published = publish(NAME, tmp_path / "hub")
    place = tmp_path / "hub" / repository_of(NAME)
    (place / "model.safetensors").unlink()
    torch.save(published.state_dict(), place / "pytorch_model.bin")
    with running_hub(tmp_path / "hub") as hub:
        ask(hub)
        assert same_weights(build_model(SETTINGS, image_size=160).backbone.network, published)


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        ("not_found", "the hub answers with status 404: there is none, or it needs a token"),
        ("server_error", "the hub answers with status 500"),
        ("hangs", "timed out"),
        ("stalls", "timed out"),
        ("truncated", "without sending complete message body"),
    ],
)
def test_a_hub_in_trouble_is_one_message_and_leaves_nothing_half_made(
    trouble: Trouble,
    reason: str,
    tmp_path: Path,
    ask: Ask,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    published = publish(NAME, tmp_path / "hub")
    with running_hub(tmp_path / "hub", trouble) as hub, monkeypatch.context() as impatient:
        impatient.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
        if trouble == "hangs":
            impatient.setattr("ctxtune.models.hub.ANSWER_SECONDS", 0.1)
        ask(hub)
        with pytest.raises(ConfigError, match=reason) as caught:
            build_model(SETTINGS)
        message = str(caught.value)
        assert f"{hub.address}/{repository_of(NAME)}/resolve/main/model.safetensors" in message
        assert "model.weights: /path/to/model.safetensors" in message
        assert str(tmp_path / "cache") in message
    lines = capfd.readouterr().err
    assert "Retrying" not in lines
    assert "Error while" not in lines
    with running_hub(tmp_path / "hub") as hub:
        ask(hub)
        assert same_weights(build_model(SETTINGS, image_size=160).backbone.network, published)


def test_without_hub_and_cache_one_message_says_which_file_to_put_where(tmp_path: Path, ask: Ask) -> None:
    hub = Hub(tmp_path)
    hub.close()
    ask(hub)
    with pytest.raises(ConfigError, match=r"Connection refused.*model.weights: /path/to/model.safetensors, or fill"):
        build_model(SETTINGS)


def test_a_damaged_file_in_the_cache_is_named_and_fetched_again_when_it_is_gone(tmp_path: Path, ask: Ask) -> None:
    published = publish(NAME, tmp_path / "hub")
    with running_hub(tmp_path / "hub", "damaged") as hub:
        ask(hub)
        with pytest.raises(
            ConfigError, match=r"is damaged: its SHA-256 is .* Delete (.*), and it is fetched again"
        ) as caught:
            build_model(SETTINGS)
    blob = Path(str(caught.value).partition("Delete ")[2].partition(", and")[0])
    with running_hub(tmp_path / "hub") as hub:
        ask(hub)
        with pytest.raises(ConfigError, match="is damaged"):
            build_model(SETTINGS)
        assert not hub.sent  # nothing of the user's is deleted unasked
        blob.unlink()
        assert same_weights(build_model(SETTINGS, image_size=160).backbone.network, published)
