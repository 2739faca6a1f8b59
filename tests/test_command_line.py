"""How commands end: a message and a status for everything, the traceback of what nobody foresaw in a log file."""

import argparse
import ast
import errno
import importlib
import runpy
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctxtune import copy, sweep, train
from ctxtune.command_line import run_command
from ctxtune.config import load_search_space
from ctxtune.errors import ConfigError, CtxtuneError
from ctxtune.terminal import add_file_arguments, all_overrides

COMMANDS = ("sweep", "ablate", "report", "train", "evaluate", "embed", "search", "data", "tracking")


def ended(main, capsys):
    """The exit status and what stands on standard error."""
    with pytest.raises(SystemExit) as left:
        run_command(main)
    return left.value.code, capsys.readouterr().err


def failing(error: BaseException):
    def main() -> int:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (CtxtuneError("what is wrong"), 2, "error: what is wrong"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (KeyError("loss.k"), 70, "error: KeyError: 'loss.k'"),
        (RecursionError("maximum recursion depth"), 70, "error: RecursionError"),
        (MemoryError(), 70, "error: the memory of this machine is not enough"),
        (OSError(5, "Input/output error", "best.pt"), 70, "error: best.pt: Input/output error"),
        (OSError(28, "No space left on device", "best.pt"), 2, "error: best.pt: No space left on device; make room"),
        (OSError(122, "Disk quota exceeded"), 2, "error: a file: Disk quota exceeded; make room"),
        (CtxtuneError(f"/{'x' * 5000}/file: no such file"), 2, "xxx...xxx"),
        (
            CtxtuneError(f"begun\ngo on with: python -m ctxtune.sweep {'x' * 5000} --resume"),
            2,
            f"{'x' * 5000} --resume",
        ),
        (UnicodeEncodeError("ascii", "\udcff", 0, 1, "surrogates"), 70, "error: UnicodeEncodeError"),
        (ValueError("x" * 5000), 70, "(5,000 characters)"),
        (AssertionError(), 70, "error: AssertionError"),
    ],
)
def test_every_error_is_a_message_and_a_status(error, status, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, said = ended(failing(error), capsys)
    assert (code, "Traceback" in said) == (status, False) and words in said
    logs = list(tmp_path.glob("ctxtune-error-*.log"))
    assert len(logs) == (status == 70)
    if logs:
        content = logs[0].read_text(encoding="utf-8")
        assert "Traceback (most recent call last)" in content and type(error).__name__ in content
        assert logs[0].name in said and stat.S_IMODE(logs[0].stat().st_mode) == 0o600


def test_the_log_holds_no_secret_and_goes_elsewhere_where_nothing_can_be_written(tmp_path, monkeypatch, capsys):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "environment-5c1e77")
    monkeypatch.setattr(sys, "argv", ["sweep", "--set", "tracking.uri=https://me:argument-5c1e77@host/"])
    gone.rmdir()
    error = ValueError("https://me:message-5c1e77@host/x?token=query-5c1e77 refuses environment-5c1e77")
    code, said = ended(failing(error), capsys)
    log = next(tmp_path.glob("ctxtune-error-*.log"))
    assert code == 70 and str(log) in said.replace("\n", "")
    assert "5c1e77" not in said + log.read_text(encoding="utf-8")


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_ends_so_and_documents_it(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [command, "--help"])
    with pytest.raises(SystemExit) as left:
        runpy.run_module(f"ctxtune.{command}", run_name="__main__")
    assert left.value.code == 0
    assert "70 an error that" in " ".join(capsys.readouterr().out.split())

    def fails(parser, *_):
        raise KeyError("unforeseen")

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", fails)
    with pytest.raises(SystemExit) as left:
        runpy.run_module(f"ctxtune.{command}", run_name="__main__")
    said = capsys.readouterr().err
    assert left.value.code == 70 and "error: KeyError: 'unforeseen'" in said and "Traceback" not in said
    assert len(list(tmp_path.glob("ctxtune-error-*.log"))) == 1


def test_a_pipe_that_nobody_reads_is_no_error(repository, tmp_path):
    script = (
        f"import sys; sys.path.insert(0, {str(repository)!r})\n"
        "from ctxtune.command_line import run_command\n"
        "def main():\n    for number in range(100_000): print(number, flush=True)\n"
        "run_command(main)\n"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    assert run.stdout is not None and run.stderr is not None
    run.stdout.readline()
    run.stdout.close()
    assert run.stderr.read() == "" and run.wait() == 141
    run.stderr.close()


@pytest.mark.parametrize(
    "name", ["20261125", "no", "1e5", "2026-25-11", "0x_", "null", "[a]", "9" * 5000, "x" * 300, "a/b", ""]
)
def test_a_name_on_the_command_line_is_taken_literally(repository, name, monkeypatch):
    parser = argparse.ArgumentParser()
    add_file_arguments(parser, "")
    overrides = all_overrides(parser.parse_args(["FILE", "--name", name]))
    try:
        space = load_search_space(repository / "search_spaces/quickstart.yaml", overrides)
    except ConfigError as error:
        assert not name.isalnum() or len(name) > 100
        assert "--name" in str(error) and len(str(error)) < 1000
    else:
        assert space.name == name


def test_a_wrong_file_of_the_command_line_is_wrong_input_and_one_of_ours_is_not(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["report", "NAME", "--out=pages"])
    error = OSError(errno.ENAMETOOLONG, "File name too long", str(tmp_path / "pages" / "x"))
    assert ended(failing(error), capsys) == (2, f"error: {tmp_path}/pages/x: File name too long\n")
    for number, other in enumerate(
        (
            OSError(errno.EACCES, "no", "/elsewhere"),
            OSError(errno.EACCES, "no", str(tmp_path / "pages of ours")),
            OSError(errno.EIO, "broken", str(tmp_path / "pages")),
        )
    ):
        (tmp_path / str(number)).mkdir()  # for its log
        monkeypatch.chdir(tmp_path / str(number))
        assert ended(failing(other), capsys)[0] == 70


@pytest.mark.parametrize(
    "launched",
    [{"RANK": "abc"}, {"RANK": "0", "WORLD_SIZE": "0"}, {"RANK": "5", "WORLD_SIZE": "2"}, {"WORLD_SIZE": "2"}],
)
def test_an_environment_that_no_launcher_makes_is_told(monkeypatch, capsys, launched):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["train", "nothing.yaml"])
    code, said = ended(train.main, capsys)
    assert code == 2 and "torchrun" in said and all(f"{name}={value}" in said for name, value in launched.items())


def test_a_terminal_of_no_width_is_printed_to(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "0")
    monkeypatch.setattr(sys, "argv", ["copy"])
    with pytest.raises(SystemExit):
        run_command(copy.main)
    assert "quickstart" in capsys.readouterr().out


def test_errors_obey_nothing_that_a_name_says(capsys):
    code, said = ended(failing(CtxtuneError("a\x1b[31mb\nc")), capsys)
    assert (code, said) == (2, "error: a\\x1b[31mb\nc\n")


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("evaluate", ["best.pt", "--no-score", "--export", "best.pt"]),
        ("evaluate", ["best.pt", "--gallery-report", "query.jpg"]),
        ("search", ["embedded", "query.jpg", "--page", "query.jpg"]),
    ],
)
def test_what_a_command_has_not_written_it_does_not_replace(tmp_path, monkeypatch, capsys, command, arguments):
    monkeypatch.chdir(tmp_path)
    for name in ("best.pt", "query.jpg"):
        Path(name).write_text("precious")
    monkeypatch.setattr(sys, "argv", [command, *arguments])
    code, said = ended(importlib.import_module(f"ctxtune.{command}").main, capsys)
    assert code == 2 and f"{arguments[-1]}: is there, and would be lost" in said
    assert {file.read_text() for file in tmp_path.iterdir()} == {"precious"}


def test_a_copy_onto_itself_loses_nothing(tmp_path, monkeypatch, capsys, repository):
    monkeypatch.chdir(tmp_path)
    text = (repository / "search_spaces/quickstart.yaml").read_text()
    Path("mine.yaml").write_text(text)
    for source, words in (("mine.yaml", ""), ("bad.yaml", "not a text in UTF-8")):
        Path("bad.yaml").write_bytes(b"\xff\xfe\xfd")
        monkeypatch.setattr(sys, "argv", ["copy", source, "mine.yaml", "--force"])
        assert words in ended(copy.main, capsys)[1]
        assert Path("mine.yaml").read_text().splitlines()[1:] == text.splitlines()[1:]


ARGUMENTS = st.lists(
    st.sampled_from(
        ["--set", "--name", "--resume", "--dry-run", "--results", "/dev/null/x", "--address", "--json", "--quiet", "--storage",
         "--slurm",
         "x" * 300, "x" * 5000, "nothing.yaml", "/", "--nonsense", "name=1", "=", "trial.loss.k=²", "name=" + "9" * 5000, "-",
         "--", "\udcff", "search.start_from.²=1", ""]
    ),
    max_size=5,
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(arguments=ARGUMENTS)
def test_no_command_line_gets_further_than_a_message(arguments, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["sweep", *arguments])
    code, said = ended(sweep.main, capsys)
    assert code == 2 and "Traceback" not in said, said


def test_a_terminal_prints_names_as_they_are(repository):
    """rich takes what is in square brackets for its own; names of classes, files and packages may have some."""
    for file in (repository / "ctxtune").rglob("*.py"):
        for call in ast.walk(ast.parse(file.read_text())):
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "Console":
                given = {keyword.arg: getattr(keyword.value, "value", None) for keyword in call.keywords}
                assert given.get("markup") is False, f"{file}:{call.lineno}"
