"""Files of timm's weights on the Hugging Face hub, or at the address that timm names, kept in the hub's local cache."""

from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import torch
from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, RemoteEntryNotFoundError

from ctxtune.errors import ConfigError

_NAMES = ("model.safetensors", "pytorch_model.bin")
"""What timm calls its weights on the hub, the safe format first."""


def hub_file(backbone: str, configuration: Any) -> tuple[Path, str]:
    """The file of the weights that a timm configuration names, and its source in words, with the hub's revision.

    A file in the local cache is taken without asking the network.

    Raises:
        ConfigError: there are no published weights, or the file cannot be had.
    """
    if not configuration.hf_hub_id:
        return _from_address(backbone, configuration.url)
    repository, _, revision = configuration.hf_hub_id.partition("@")
    names = (configuration.hf_hub_filename,) if configuration.hf_hub_filename else _NAMES
    options = {"revision": revision} if revision else {}
    for name in names:
        found = try_to_load_from_cache(repository, name, **options)
        if isinstance(found, str):
            return _described(repository, Path(found))
    where = f"{constants.ENDPOINT}/{repository}/resolve/{revision or 'main'}/{names[0]}"
    problem: Exception | None = None
    for name in names:
        try:
            _require_answer(constants.ENDPOINT)
            return _described(repository, Path(hf_hub_download(repository, name, **options)))
        except RemoteEntryNotFoundError as error:  # perhaps it has the file under the other name
            problem = error
        except _download_errors() as error:
            problem = error
            break
    raise _not_to_be_had(backbone, where, names[0], f"the hub's cache ({constants.HF_HUB_CACHE})", problem)


def _require_answer(address: str) -> None:
    """Raise OSError where nobody answers: the hub's client would try again for half a minute, and say so each time."""
    if constants.HF_HUB_OFFLINE:
        raise OSError("HF_HUB_OFFLINE is set")
    try:
        with urlopen(Request(address, method="HEAD"), timeout=10):
            pass
    except HTTPError:
        return  # an answer


def _download_errors() -> tuple[type[Exception], ...]:
    """What the hub's client raises without a network, without the file, and with a broken cache."""
    found: list[type[Exception]] = [OSError, ValueError, RuntimeError, HfHubHTTPError]
    for module in ("httpx", "httpx2", "requests"):  # whichever its version speaks through
        try:
            found.append(__import__(module).HTTPError)
        except (ImportError, AttributeError):
            continue
    return tuple(found)


def _described(repository: str, path: Path) -> tuple[Path, str]:
    # .../models--OWNER--NAME/snapshots/REVISION/FILE
    revision = path.parent.name if path.parent.parent.name == "snapshots" else ""
    return path, f"{repository}@{revision}" if revision else repository


def _from_address(backbone: str, url: str) -> tuple[Path, str]:
    if not url:
        raise ConfigError(
            f"model.weights: nobody has published weights for {backbone}; name a .safetensors or .pth file, or null"
        )
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), progress=False)
        except (OSError, RuntimeError) as error:
            raise _not_to_be_had(backbone, url, path.name, str(path), error) from error
    return path, url


def _not_to_be_had(backbone: str, url: str, name: str, cache: str, error: Exception | None) -> ConfigError:
    reason = str(error).strip().splitlines()[0] if error and str(error).strip() else type(error).__name__
    return ConfigError(
        f"model.weights: the pretrained weights of {backbone} could not be had from {url} ({reason}). Fetch that file on a "
        f"machine with a network and name its path: model.weights: /path/to/{name}, or fill {cache} there and copy it. Or "
        "train from scratch with model.weights: null"
    )
