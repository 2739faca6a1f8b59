"""Files of timm's weights on the Hugging Face hub, or at the address that timm names, kept in the hub's local cache."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import HTTPRedirectHandler, Request, build_opener

import torch
from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RemoteEntryNotFoundError
from huggingface_hub.utils import logging as hub_logging

from ctxtune.errors import ConfigError

_NAMES = ("model.safetensors", "pytorch_model.bin")
"""What timm calls its weights on the hub, the safe format first."""
ANSWER_SECONDS = 10.0
_SHA256 = re.compile(r"[0-9a-f]{64}")
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,})\.")


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
            if constants.HF_HUB_OFFLINE:
                raise OSError("HF_HUB_OFFLINE is set")
            require_answer(where)
            with _only_errors():
                return _described(repository, Path(hf_hub_download(repository, name, **options)))
        except RemoteEntryNotFoundError as error:  # perhaps it has the file under the other name
            problem = error
        except _download_errors() as error:
            problem = error
            break
    raise _not_to_be_had(backbone, where, names[0], f"the hub's cache ({constants.HF_HUB_CACHE})", problem)


def promised_sha256(path: Path) -> str | None:
    """The SHA-256 that the hub told of a file in its cache; None where it told none, or the file lies elsewhere."""
    blob = path.resolve()
    return blob.name if blob.parent.name == "blobs" and _SHA256.fullmatch(blob.name) else None


def require_answer(address: str) -> None:
    """Raise OSError where nobody answers in time: the hub's client would go on trying for minutes, torch's for ever."""
    try:
        with build_opener(_Here).open(Request(address, method="HEAD"), timeout=ANSWER_SECONDS):
            pass
    except HTTPError:
        return  # an answer


class _Here(HTTPRedirectHandler):
    """Follows no redirect, which is an answer; urllib would ask for the whole file there."""

    def redirect_request(self, *request: object) -> None:
        return None


@contextlib.contextmanager
def _only_errors() -> Iterator[None]:
    """Without the lines of the hub's client about each time that it tries again: what came of it is told once."""
    before = hub_logging.get_verbosity()
    hub_logging.set_verbosity_error()
    try:
        yield
    finally:
        hub_logging.set_verbosity(before)


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
            require_answer(url)
            path.parent.mkdir(parents=True, exist_ok=True)
            known = _HASH_IN_NAME.search(path.name)
            torch.hub.download_url_to_file(url, str(path), hash_prefix=known and known[1], progress=False)
        except (OSError, RuntimeError) as error:
            raise _not_to_be_had(backbone, url, path.name, str(path), error) from error
    return path, url


def _not_to_be_had(backbone: str, url: str, name: str, cache: str, error: Exception | None) -> ConfigError:
    return ConfigError(
        f"model.weights: the pretrained weights of {backbone} could not be had from {url} ({_reason(error)}). Fetch that "
        f"file on a machine with a network and name its path: model.weights: /path/to/{name}, or fill {cache} there and "
        "copy it. Or train from scratch with model.weights: null"
    )


def _reason(error: BaseException | None) -> str:
    """In one line what the hub, or the way to it, answered."""
    while isinstance(error, LocalEntryNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        hint = ": there is none, or it needs a token (HF_TOKEN)" if status in (401, 403, 404) else ""
        return f"the hub answers with status {status}{hint}"
    text = str(error).strip() if error else ""
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__
