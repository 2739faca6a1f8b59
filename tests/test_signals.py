"""Signals end a command by one line and a status, whatever is being imported; who only imports us keeps its own."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.processes import environment

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


def interrupted_while_importing(
    folder: Path, repository: Path, module: str, seconds: float, numbers: list[int]
) -> tuple[int, str]:
    """Start a command, send signals while it imports the module; its exit status and standard error."""
    (folder / f"{module}.py").write_text(
        "import os, time\nos.write(1, b'now')\n"
        f"end = time.monotonic() + {seconds}\nwhile time.monotonic() < end: time.sleep(0.01)\n"
        "os.write(1, b'imported')\n"
    )
    command = folder / "ctxtune"
    command.write_text(
        f"import sys, time; sys.path.insert(0, {str(repository)!r}); sys.path.insert(0, {str(folder)!r})\n"
        "from ctxtune.command_line import run_command\n"
        "def main():\n    import imported_by_main\n    time.sleep(60)\n"
        "run_command(main)\n"
    )
    process = subprocess.Popen([sys.executable, command], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.read(3) == b"now"
    for number in numbers:
        process.send_signal(number)
        time.sleep(0.05)  # else both are one
    told, errors = process.communicate(timeout=50)
    assert (b"imported" in told) == (seconds < 5)
    return process.returncode, errors.decode()


def test_a_command_in_a_deleted_folder_says_so(tmp_path, repository):
    """Torch would end it, as it is imported there, with "FATAL ERROR: Cannot load libtorch_cpu.so"."""
    gone = tmp_path / "gone"
    gone.mkdir()
    start = f"rmdir {gone} && exec {sys.executable} -m ctxtune.data check glyphs"
    done = subprocess.run(
        ["sh", "-c", start], cwd=gone, env=environment(repository), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (
        2,
        "error: the working directory was deleted; change into one that is there\n",
    )


@pytest.mark.parametrize("number", SIGNALS)
def test_nothing_is_begun_before_a_command_is_imported(tmp_path, repository, number):
    ended = interrupted_while_importing(tmp_path, repository, "rich", 60, [number])
    assert ended == (130, f"interrupted by {number.name}\n")


@pytest.mark.parametrize(("seconds", "numbers"), [(0.3, [signal.SIGTERM]), (60, [signal.SIGTERM, signal.SIGTERM])])
def test_a_later_import_is_waited_for_but_not_by_a_second_signal(tmp_path, repository, seconds, numbers):
    """A library in C++ ends the process with pages of text where its import raises what it does not expect."""
    ended = interrupted_while_importing(tmp_path, repository, "imported_by_main", seconds, numbers)
    assert ended == (130, "interrupted by SIGTERM\n")


@pytest.mark.parametrize("switched_off", [False, True])
def test_a_command_under_nohup_outlives_its_terminal(tmp_path, repository, switched_off):
    script = (
        f"import signal, sys; sys.path.insert(0, {str(repository)!r})\n"
        f"signal.signal(signal.SIGHUP, signal.{'SIG_IGN' if switched_off else 'SIG_DFL'})\n"
        "from ctxtune.command_line import run_command\n"
        "run_command(lambda: signal.raise_signal(signal.SIGHUP))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == ((0, "") if switched_off else (130, "interrupted by SIGHUP\n"))


def test_who_imports_the_package_keeps_its_own_handlers_and_its_alarm(repository):
    script = (
        f"import signal, sys; sys.path.insert(0, {str(repository)!r})\n"
        "signal.setitimer(signal.ITIMER_REAL, 1000)\nimport ctxtune.command_line\n"
        "print(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, signal.getsignal(signal.SIGINT).__name__)\n"
        "print(signal.getitimer(signal.ITIMER_REAL)[0] > 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "True default_int_handler\nTrue\n"
