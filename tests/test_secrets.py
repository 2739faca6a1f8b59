"""Secrets given by the environment or inside addresses are in no output, file, log or run afterwards."""

import contextlib
import os
import pickle
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from ctxtune.config import load_search_space
from ctxtune.errors import ConfigError, CtxtuneError
from ctxtune.redaction import redact, redact_argument
from ctxtune.tracking import read_runs
from ctxtune.training import load_checkpoint
from ctxtune.tuning.record.results_folder import resume_command
from tests.helpers.clusters import mlflow_server, s3_keys, s3_server
from tests.helpers.processes import PATIENCE
from tests.helpers.sweeps import SMALL, start_sweep

URI_PASSWORD = "uripass-5c1e77"
SECRETS = {
    "MLFLOW_TRACKING_PASSWORD": "mlflowpass-81be20",
    "RAY_AUTH_TOKEN": "raytoken-d92f04aa6b",
    "MY_OWN_API_KEY": "apikey-3355f1",
}


def holders(folder: Path, secret: str) -> list[str]:
    """Every file below the folder that holds the secret, in whatever format."""
    found = []
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # of a process that is running
            if path.is_file() and secret.encode() in path.read_bytes():
                found.append(str(path.relative_to(folder)))
    return found


@pytest.mark.slow
def test_a_sweep_with_secrets_all_around_it_leaves_none(repository, tmp_path):
    work, server = tmp_path / "work", tmp_path / "server"
    work.mkdir()
    server.mkdir()
    with s3_server(tmp_path) as keys, mlflow_server(server) as address:
        uri = address.replace("http://", f"http://ctxtune:{URI_PASSWORD}@")
        secrets = {**SECRETS, "AWS_SECRET_ACCESS_KEY": keys["AWS_SECRET_ACCESS_KEY"]}
        # Ray's own logs go below the folder, too; a short way, for its sockets.
        variables = {**keys, **secrets, "MLFLOW_TRACKING_URI": uri, "RAY_TMPDIR": ray_folder(tmp_path)}
        overrides = [*SMALL, "search.trials=2", "select=null", "confirm=null"]
        storage = ["--storage", "s3://ctxtune/sweeps"]
        sweep = start_sweep(repository, work, *storage, overrides=overrides, variables=variables)
        told: set[str] = set()
        while sweep.poll() is None:  # what Ray writes is gone with it
            for secret in (URI_PASSWORD, *secrets.values()):
                told.update(holders(tmp_path / "ray", secret))
            time.sleep(1)
        output = "".join(sweep.communicate())
        assert sweep.returncode == 0, output
        assert not told
        assert len(read_runs(address, "quickstart", "trial")) == 2  # it was this server that was used
        assert s3_keys(keys)
        checkpoint = next(key for key in s3_keys(keys) if key.endswith("checkpoint.pt"))
        stored = download(keys, checkpoint)
    for secret in (URI_PASSWORD, *secrets.values()):
        assert secret not in output
        assert holders(work, secret) == []
        assert holders(server, secret) == []  # database (params, tags, artifacts' index), artifacts, log
        assert secret.encode() not in stored
    assert (work / "results/quickstart/space.yaml").read_text().count("uri: http://127.0.0.1") == 1


def ray_folder(tmp_path: Path) -> str:
    link = Path("/tmp") / f"cs{os.getpid()}"
    if not link.exists():
        (tmp_path / "ray").mkdir()
        link.symlink_to(tmp_path / "ray")
    return str(link)


@pytest.fixture(autouse=True)
def _no_link_left():
    yield
    (Path("/tmp") / f"cs{os.getpid()}").unlink(missing_ok=True)


def download(keys: dict[str, str], key: str) -> bytes:
    import boto3

    client = boto3.client(
        "s3", endpoint_url=keys["AWS_ENDPOINT_URL"], aws_access_key_id=keys["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=keys["AWS_SECRET_ACCESS_KEY"], region_name="us-east-1",
    )  # fmt: skip
    return bytes(client.get_object(Bucket="ctxtune", Key=key)["Body"].read())


def test_the_search_for_secrets_is_not_blind(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b.bin").write_bytes(b"\x00\x01" + b"mlflowpass-81be20" + b"\xff")
    assert holders(tmp_path, "mlflowpass-81be20") == ["a/b.bin"]


def test_a_password_in_an_argument_is_not_repeated_in_the_command_that_resumes():
    text = resume_command(
        "sweep", ["cars.yaml", "--set", "tracking.uri=https://me:secret@host:5000/x", "--address", "auto"]
    )
    assert (
        "secret" not in text and "tracking.uri=https://host:5000/x" in text and text.endswith("--address auto --resume")
    )


@pytest.mark.parametrize(
    ("argument", "shown"),
    [
        ("tracking.uri=https://u:p@host", "tracking.uri=https://host"),
        ("https://u:p@host/a?token=x", "https://host/a"),
        ("trial.loss.k=8", "trial.loss.k=8"),
        ("--name=a", "--name=a"),
        ("search.space.loss.k={choice: [2, 4]}", "search.space.loss.k={choice: [2, 4]}"),
    ],
)
def test_arguments_are_shown_without_secrets(argument, shown):
    assert redact_argument(argument) == shown


def test_addresses_without_secrets_stay_as_they_are():
    for uri in ("sqlite:///mlflow.db", "sqlite:////abs/mlflow.db", "http://127.0.0.1:5000", "databricks"):
        assert redact(uri) == uri


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system ['touch {}']", "!!python/name:os.system"])
def test_a_yaml_file_cannot_run_code(tmp_path, tag):
    mark = tmp_path / "was-here"
    file = tmp_path / "evil.yaml"
    file.write_text(f"name: {tag.format(mark)}\ntrial: {{}}\n")
    with pytest.raises(ConfigError, match=r"evil\.yaml:1: name: the tag .* has no meaning here"):
        load_search_space(file)
    assert not mark.exists()


class _Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (os.system, (f"touch {self.mark}",))


def test_a_checkpoint_cannot_run_code(tmp_path):
    mark = tmp_path / "was-here"
    torch.save({"format": 1, "evil": _Evil(mark)}, tmp_path / "torch.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(_Evil(mark)))
    for file in ("torch.pt", "plain.pt"):
        with pytest.raises(CtxtuneError, match="not a checkpoint that can be read"):
            load_checkpoint(tmp_path / file)
    assert not mark.exists()


def test_no_code_reads_yaml_or_checkpoints_another_way(repository):
    for path in (repository / "ctxtune").rglob("*.py"):
        text = path.read_text()
        assert not re.search(r"yaml\.(unsafe_load|full_load|UnsafeLoader|FullLoader)", text), path
        assert not re.search(r"weights_only\s*=\s*False|pickle\.loads?\(", text), path
        for call in re.findall(r"torch\.load\([^)]*\)", text):
            assert "weights_only=True" in call, f"{path}: {call}"
        for call in re.findall(r"yaml\.load\(([^)]*)\)", text):
            assert "Loader=_Loader" in call, f"{path}: {call}"


def test_no_secret_and_no_machine_is_in_the_repository(repository):
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=repository, capture_output=True, check=True, timeout=60)
    pattern = re.compile(rb"AKIA[0-9A-Z]{16}|-----BEGIN [A-Z ]*PRIVATE KEY-----|ghp_[A-Za-z0-9]{36}")
    for name in listed.stdout.decode().split("\0"):
        path = repository / name
        if name and path.is_file() and path.stat().st_size < 1_000_000:
            assert name.startswith("tests/") or not pattern.search(path.read_bytes()), name


@pytest.mark.slow
def test_the_images_pins_have_no_known_vulnerability(repository):
    """Asks a public database of vulnerabilities; where that cannot be reached, nothing is known."""
    audit = Path(sys.executable).parent / "pip-audit"
    done = subprocess.run(
        [audit, "--no-deps", "--disable-pip", "-r", "docker/requirements.txt", "-r", "docker/requirements-torch.txt"],
        cwd=repository, capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    output = done.stdout + done.stderr
    if "Dependency not found on PyPI" in output or "ConnectionError" in output or "timed out" in output:
        pytest.skip("the database of vulnerabilities cannot be reached from here")
    assert done.returncode == 0, output
