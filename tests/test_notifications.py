"""`notify`: what is sent at an end or a failure, to a real server and a real command; a dead one is told, never fatal."""

import http.server
import json
import sys
import threading
import warnings

import pytest

from ctxtune import notifications, sweep, train
from ctxtune.command_line import run_command
from ctxtune.config import load_ablation, load_search_space
from ctxtune.config.sweep import NotifySettings
from ctxtune.errors import ConfigError, CtxtuneError
from ctxtune.notifications import notifying
from ctxtune.redaction import redact_argument
from tests.helpers.processes import run_here

SECRET = "T0KEN-5c1e77"


class Receiver:
    """An HTTP server that keeps what it gets; its answers have these statuses, the last one again and again."""

    def __init__(self, *statuses: int) -> None:
        self.got: list[dict] = []
        receiver, answers = self, list(statuses)

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.got.append({"path": self.path, "type": self.headers["Content-Type"], **json.loads(body)})
                self.send_response(answers.pop(0) if len(answers) > 1 else answers[0])
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/hooks/{SECRET}?key={SECRET}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def receiver(request):
    server = Receiver(*getattr(request, "param", (200,)))
    yield server
    server.close()


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(notifications, "PAUSE_SECONDS", 0.01)


def end(settings: NotifySettings, error: BaseException | None = None) -> list[str]:
    """What is warned of where something ends so."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            with notifying(settings, "sweep", "cars") as outcome:
                outcome.message = "MAP@R: +1.2 points"
                if error is not None:
                    raise error
        except BaseException as raised:  # noqa: BLE001
            assert raised is error
    return [str(each.message) for each in said]


@pytest.mark.parametrize(
    ("error", "state", "words"),
    [
        (None, "completed", "MAP@R: +1.2 points"),
        (CtxtuneError("no trial came to its last epoch"), "failed", "no trial came to its last epoch"),
        (KeyboardInterrupt(), "interrupted", "KeyboardInterrupt"),
        (OSError(28, "No space left on device"), "failed", "No space left"),
    ],
)
def test_a_url_gets_json_at_the_end_and_at_a_failure(receiver, error, state, words):
    assert end(NotifySettings(url=receiver.url), error) == []
    (got,) = receiver.got
    assert (got["state"], got["command"], got["name"], got["type"]) == (state, "sweep", "cars", "application/json")
    assert words in got["message"] and f"ctxtune sweep cars: {state} after" in got["text"] and words in got["text"]


def test_only_failures_says_nothing_of_a_success(receiver):
    settings = NotifySettings(url=receiver.url, only_failures=True)
    end(settings)
    assert receiver.got == []
    end(settings, CtxtuneError("x"))
    assert len(receiver.got) == 1


def test_a_command_gets_the_same_on_its_input_and_in_its_environment(tmp_path):
    command = f"cat > '{tmp_path}/input'; echo \"$CTXTUNE_STATE $CTXTUNE_NAME\" > '{tmp_path}/variables'"
    assert end(NotifySettings(command=command)) == []
    assert json.loads((tmp_path / "input").read_text())["text"].startswith("ctxtune sweep cars: completed")
    assert (tmp_path / "variables").read_text() == "completed cars\n"
    assert end(NotifySettings(command=f"exit 3 # {SECRET}")) == ["notify.command: it ended with status 3"]


@pytest.mark.parametrize("receiver", [(503, 503, 200)], indirect=True)
def test_a_busy_server_is_asked_again(receiver):
    assert end(NotifySettings(url=receiver.url)) == [] and len(receiver.got) == 3


@pytest.mark.parametrize("receiver", [(404,), (500,)], indirect=True)
def test_a_refusal_is_told_without_the_address(receiver):
    (said,) = end(NotifySettings(url=receiver.url))
    assert "HTTP status " in said and "nobody was told" in said and SECRET not in said
    assert len(receiver.got) == (1 if "404" in said else 3)


def test_a_dead_url_is_told_and_never_fatal():
    server = Receiver(200)
    server.close()
    (said,) = end(NotifySettings(url=server.url))
    assert "Connection refused" in said and SECRET not in said
    assert "http://127.0.0.1" in said


def test_what_is_sent_holds_no_secret(receiver, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "environment-5c1e77")
    end(NotifySettings(url=receiver.url), CtxtuneError(f"https://me:{SECRET}@host refuses environment-5c1e77"))
    assert "5c1e77" not in json.dumps({key: value for key, value in receiver.got[0].items() if key != "path"})


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ("{}", "expected url, command or both"),
        (f"{{url: 'ftp://host/{SECRET}'}}", "notify.url: expected an address that begins with https:// or http://"),
        ("{url: 'https://'}", "expected an address that begins with"),
        ("{command: ' '}", "notify.command: expected a command for the shell"),
        ("{urls: x}", 'did you mean "url"'),
    ],
)
def test_a_wrong_block_is_told_with_its_key(repository, block, words):
    with pytest.raises(ConfigError) as told:
        load_search_space(repository / "search_spaces/quickstart.yaml", [f"notify={block}"])
    assert words in str(told.value) and SECRET not in str(told.value)


def test_it_is_written_down_nowhere(repository):
    override = f"notify={{url: 'https://hooks.example/{SECRET}', command: 'send {SECRET}'}}"
    for config in (
        load_search_space(repository / "search_spaces/quickstart.yaml", [override]),
        load_ablation(repository / "ablations/quickstart.yaml", [override]),
    ):
        assert config.notify is not None and config.notify.places == "a POST to https://hooks.example and a command"
        assert SECRET not in config.model_dump_json()
    for argument in (override, f"notify.url=https://hooks.example/{SECRET}", f"notify.command=send {SECRET}"):
        assert SECRET not in redact_argument(argument)


def test_a_run_that_fails_and_one_that_ends_are_told(receiver, tmp_path, monkeypatch, capsys):
    (tmp_path / "tiny.yaml").write_text(
        "name: tiny\n"
        "trial:\n"
        "  dataset: {name: glyphs, image_size: 32}\n"
        "  model: {backbone: small_conv, width: 8, embedding_dim: 16}\n"
        "  sampler: {batch_size: 16, batches_per_epoch: 2}\n"
        "  schedule: {name: cosine, epochs: 1}\n"
        "  image: {train_crop: 32, test_resize: null, test_crop: null}\n"
        "  evaluation: {every: 1}\n"
    )
    arguments = [
        "--results",
        str(tmp_path / "results"),
        "--quiet",
        "--device",
        "cpu",
        "--set",
        f"notify.url={receiver.url}",
    ]
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", ["train", str(tmp_path / "tiny.yaml"), *arguments])
        with pytest.raises(SystemExit):
            run_command(train.main)
    assert [got["state"] for got in receiver.got] == ["completed", "failed"]
    assert (
        "validation/map_at_r 0." in receiver.got[0]["message"] and "holds a run already" in receiver.got[1]["message"]
    )
    written = [path.read_bytes() for path in (tmp_path / "results").rglob("*") if path.is_file()]
    assert written and all(SECRET.encode() not in content for content in written)
    assert SECRET not in "".join(capsys.readouterr())


def test_a_dry_run_names_who_would_be_told_and_tells_nobody(repository, receiver, tmp_path):
    file = str(repository / "search_spaces/quickstart.yaml")
    done = run_here(sweep.main, tmp_path, file, "--dry-run", "--set", f"notify.url={receiver.url}")
    assert done.returncode == 0, done.stderr
    assert "at the end: a POST to http://127.0.0.1" in done.stdout and SECRET not in done.stdout + done.stderr
    assert receiver.got == []
