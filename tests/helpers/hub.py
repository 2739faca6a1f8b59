"""A Hugging Face hub on the loopback: what `huggingface_hub` asks of the real one, over files that a test made."""

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal, get_args

import timm
import torch
from safetensors.torch import save_file
from torch import nn

REVISION = "0123456789abcdef0123456789abcdef01234567"
REVISIONS = ("main", REVISION)
Trouble = Literal["not_found", "server_error", "hangs", "stalls", "truncated", "damaged"]
"""What goes wrong: no such repository; status 500; no answer; half a file, then silence; half a file, then the connection's
end; other bytes than said."""


def repository_of(model: str) -> str:
    """The repository in which timm looks for a model's weights."""
    return str(timm.get_pretrained_cfg(model).hf_hub_id)


def publish(model: str, folder: Path) -> nn.Module:
    """Write a network of random weights under ``folder`` as timm publishes one: a file of tensors and its configuration."""
    torch.manual_seed(5)
    network = timm.create_model(model, pretrained=False).eval()
    place = folder / repository_of(model)
    place.mkdir(parents=True)
    state = {name: tensor.contiguous().clone() for name, tensor in network.state_dict().items()}
    save_file(state, place / "model.safetensors", metadata={"format": "pt"})
    configuration = {
        "architecture": model,
        "num_classes": network.num_classes,
        "pretrained_cfg": network.pretrained_cfg,
    }
    (place / "config.json").write_text(json.dumps(configuration, default=list))
    return network


class Hub:
    """A hub that serves the repositories in a folder (`OWNER/NAME/FILE`), each in one revision.

    Like the real one it answers ``/OWNER/NAME/resolve/REVISION/FILE`` with revision, hash and size, and sends large
    files from another address, to which it redirects.

    Attributes:
        address: where it answers.
        objects: where it sends files from.
        requests: method and path of each request.
        sent: the paths under which a file's content was sent.
    """

    def __init__(self, folder: Path, trouble: Trouble | None = None) -> None:
        assert trouble is None or trouble in get_args(Trouble)
        self.folder, self.trouble = folder, trouble
        self.requests: list[tuple[str, str]] = []
        self.sent: list[str] = []
        self.ended = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.objects = self.address.replace("127.0.0.1", "localhost")  # another host, as the real one's
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Answer no more: connections are refused from now on."""
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()


@contextlib.contextmanager
def running_hub(folder: Path, trouble: Trouble | None = None) -> Iterator[Hub]:
    """A hub that is gone at the end of the block."""
    hub = Hub(folder, trouble)
    try:
        yield hub
    finally:
        hub.close()


class _Handler(BaseHTTPRequestHandler):
    """Answers for a hub that a subclass names."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(content=False)

    def do_GET(self) -> None:
        self._answer(content=True)

    def log_message(self, *arguments: Any) -> None:
        pass

    def _answer(self, *, content: bool) -> None:
        self.hub.requests.append((self.command, self.path))
        if self.hub.trouble == "hangs":
            self.hub.ended.wait()
            return
        match ["failed"] if self.hub.trouble == "server_error" else self.path.strip("/").split("/"):
            case ["api", "models", owner, name, *rest] if rest in (
                [],
                *(["revision", known] for known in REVISIONS),
            ):
                self._describe(f"{owner}/{name}", content)
            case [owner, name, "resolve", revision, file] if revision in REVISIONS:
                self._resolve(f"{owner}/{name}", file, content)
            case ["objects", owner, name, file]:
                self._send_file(self.hub.folder / owner / name / file, content)
            case ["failed"]:
                self._say(500, b"", content)
            case _:
                self._say(404, b"", content)

    def _describe(self, repository: str, content: bool) -> None:
        place = self.hub.folder / repository
        if not self._is_known(place, content):
            return
        files = [{"rfilename": file.name} for file in sorted(place.iterdir())]
        text = json.dumps({"id": repository, "modelId": repository, "sha": REVISION, "siblings": files})
        self._say(200, text.encode(), content, {"Content-Type": "application/json"})

    def _resolve(self, repository: str, file: str, content: bool) -> None:
        place = self.hub.folder / repository / file
        if not self._is_known(place.parent, content):
            return
        if not place.is_file():
            self._say(404, b"", content, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": REVISION})
            return
        data = place.read_bytes()
        self._say(
            302,
            b"",
            content,
            {
                "X-Repo-Commit": REVISION,
                "X-Linked-Etag": f'"{hashlib.sha256(data).hexdigest()}"',
                "X-Linked-Size": str(len(data)),
                "Location": f"{self.hub.objects}/objects/{repository}/{file}",
            },
        )

    def _is_known(self, repository: Path, content: bool) -> bool:
        known = repository.is_dir() and self.hub.trouble != "not_found"
        if not known:
            self._say(404, b"", content, {"X-Error-Code": "RepoNotFound"})
        return known

    def _send_file(self, place: Path, content: bool) -> None:
        data = place.read_bytes()
        begin = 0
        if (wanted := self.headers.get("Range")) is not None:
            begin = int(wanted.removeprefix("bytes=").partition("-")[0])
        if content:
            self.hub.sent.append(self.path)
        if self.hub.trouble == "damaged":
            data = data[: len(data) // 2] + bytes(len(data) - len(data) // 2)
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(data) - begin))
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if content:
            partly = self.hub.trouble in ("truncated", "stalls")
            self.wfile.write(data[begin : len(data) // 2 if partly else len(data)])
            if self.hub.trouble == "stalls":
                self.hub.ended.wait()
            self.close_connection = partly

    def _say(self, status: int, body: bytes, content: bool, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if content:
            self.wfile.write(body)
