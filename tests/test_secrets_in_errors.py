"""No error shows a password, a key or where a notification goes, whatever place of the wrong kind it stands in."""

import os
import sys
import threading
from pathlib import Path

import pytest

from ctxtune import sweep
from ctxtune.command_line import run_command
from ctxtune.errors import CtxtuneError
from ctxtune.tracking.addresses import absolute_uri

SECRET = "hunter2SECRET"
DATABASE = f"postgresql://ada:{SECRET}@host/db"
SLURM = ("--slurm", "time=1:00:00", "--dry-run")


def said_of(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, int]:
    """What the command says of arguments that it refuses, and its status."""
    monkeypatch.setattr(sys, "argv", ["sweep", *arguments])
    with pytest.raises(SystemExit) as left:
        run_command(sweep.main)
    captured = capsys.readouterr()
    return captured.out + captured.err, int(left.value.code or 0)


@pytest.fixture
def quickstart(repository: Path) -> str:
    return str(repository / "search_spaces/quickstart.yaml")


@pytest.mark.parametrize(
    "override",
    [
        f"tracking={DATABASE}",
        f"tracking.uri=[{DATABASE}]",
        f"trial.loss.k={DATABASE}",
        f"search.space={DATABASE}",
        f"tracking.optuna={{a: {DATABASE}}}",
        f"notify=https://hooks.example/{SECRET}",
        f"notify.url=[https://hooks.example/{SECRET}]",
        f"notify.command=[curl, {SECRET}]",
        f" notify.url=https://hooks.example/{SECRET}",
        f"tracking.uri=//ada:{SECRET}@host:5000",
        f"tracking.uri=https://host/path;token={SECRET}",
    ],
)
def test_an_override_is_refused_without_its_secret(monkeypatch, capsys, quickstart, override):
    said, status = said_of(monkeypatch, capsys, quickstart, "--set", override, *SLURM)
    assert status == 2
    assert "error: " in said and SECRET not in said


@pytest.mark.parametrize(
    ("block", "override"),
    [
        (f'tracking: "{DATABASE}"', ""),
        (f'"{DATABASE}": 1', ""),
        (f'tracking: {{"{DATABASE}": 1}}', ""),
        (f"tracking: {{[{DATABASE}]: 1}}", ""),
        (f"tracking: {{uri: !{DATABASE} x}}", ""),
        (f"tracking: {{uri: ['{DATABASE}']}}", ""),
        (f"notify: https://hooks.example/{SECRET}", ""),
        (f"notify: {{url: [https://hooks.example/{SECRET}]}}", ""),
        (f'tracking: {{uri: "{DATABASE}"}}', "tracking.uri.x=1"),
        (f"notify: {{url: https://hooks.example/{SECRET}}}", "notify.url.x=1"),
    ],
)
def test_a_file_is_refused_without_its_secret(monkeypatch, capsys, tmp_path, quickstart, block, override):
    lines = [line for line in Path(quickstart).read_text().splitlines() if not line.startswith("tracking:")]
    file = tmp_path / "space.yaml"
    file.write_text("\n".join([*lines, block]))
    said, status = said_of(monkeypatch, capsys, str(file), *(["--set", override] if override else []), *SLURM)
    assert status == 2
    assert "error: " in said and SECRET not in said


@pytest.mark.parametrize(
    "storage", [f"s3://key:{SECRET}@bucket/x", f"s3://bucket/x?secret_key={SECRET}"], ids=["password", "query"]
)
def test_a_key_of_the_storage_is_not_written_into_a_batch_script(monkeypatch, capsys, quickstart, storage):
    said, status = said_of(monkeypatch, capsys, quickstart, "--storage", storage, *SLURM)
    assert status == 2
    assert "--storage s3://bucket/x" in said and SECRET not in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "resources.cpus=5e-324"], "cpus must be auto, 0 or at least 0.0001"),
        (["--set", "search.budget.hours=1e308"], "expected a number of at most 1e+09"),
        (["--assume", "", "--dry-run"], "expected images_per_second=NUMBER"),
        (["--assume", "images_per_second=100,images_per_second=5", "--dry-run"], "expected images_per_second=NUMBER"),
        (["--assume", "images_per_second=1e-300", "--dry-run"], "images_per_second must be at least 0.1"),
        (["--slurm", "time=１2:00:00", "--dry-run"], "--slurm"),
        (["--slurm", "time=1:00:00", "mem=６4G", "--dry-run"], "--slurm"),
    ],
    ids=str,
)
def test_numbers_that_no_machine_has_are_refused(monkeypatch, capsys, quickstart, arguments, message):
    said, status = said_of(monkeypatch, capsys, quickstart, *arguments)
    assert status == 2, said
    assert message in said


def test_a_search_block_that_is_misspelt_is_named(monkeypatch, capsys, tmp_path, quickstart):
    for written in ("serach:", "Search:", "sеarch:"):  # the last with a Cyrillic letter
        file = tmp_path / "space.yaml"
        file.write_text(Path(quickstart).read_text().replace("\nsearch:", f"\n{written}"))
        said, status = said_of(monkeypatch, capsys, str(file), *SLURM)
        assert status == 2
        assert 'unknown key; did you mean "search"?' in said


def test_a_pipe_is_read_and_one_that_nobody_writes_to_is_not_waited_for(monkeypatch, capsys, tmp_path, quickstart):
    monkeypatch.setattr("ctxtune.yaml_text.PIPE_SECONDS", 0.2)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    said, status = said_of(monkeypatch, capsys, str(pipe), *SLURM)
    assert status == 2 and "a pipe that nobody writes to" in said
    monkeypatch.setattr("ctxtune.yaml_text.PIPE_SECONDS", 60.0)
    writer = threading.Thread(target=lambda: pipe.write_text(Path(quickstart).read_text() + "\nfoo: 1\n"))
    writer.start()
    said, status = said_of(monkeypatch, capsys, str(pipe), *SLURM)
    writer.join()
    assert status == 2 and "foo: unknown key" in said


def test_a_folder_of_nobody_is_a_wrong_address():
    with pytest.raises(CtxtuneError, match="there is no such user's folder"):
        absolute_uri("sqlite:///~nobody-has-this-name/mlflow.db")
