"""A Ray that does not start, or that dies under a sweep: what the user is told, and that nothing is lost."""

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.helpers.processes import PATIENCE, environment, wait_for
from tests.helpers.sweeps import SMALL, run_sweep, start_sweep, wait_for_checkpoints

psutil = pytest.importorskip("psutil")
pytestmark = pytest.mark.slow
LONG = [
    *SMALL,
    "trial.schedule.epochs=500",
    "search.trials=1",
    "search.scheduler.name=none",
    "select=null",
    "confirm=null",
]
NO_PLACE = """
from ctxtune.errors import CtxtuneError
from ctxtune.tuning.backend.local_ray import local_ray
try:
    with local_ray({"_plasma_directory": "/dev/null/nowhere", "log_to_driver": False}, lambda text: print(text, flush=True)):
        pass
except CtxtuneError as error:
    print("error:", error)
import psutil
print([child.name() for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE])
"""


def child(process: subprocess.Popen[str], name: str):
    """A child of a sweep by its name; None while there is none."""
    children = psutil.Process(process.pid).children()
    return next((each for each in children if each.name() == name), None)


@pytest.mark.parametrize(("victim", "called"), [("gcs_server", "the control service (GCS)"), ("raylet", "the raylet")])
def test_where_a_process_of_rays_dies_the_sweep_stops_in_seconds_and_says_how_to_go_on(
    repository, tmp_path, victim, called
):
    sweep = start_sweep(repository, tmp_path, overrides=LONG)
    wait_for_checkpoints(tmp_path / "results/quickstart/journal.jsonl", 1, sweep)
    child(sweep, victim).kill()
    output, errors = sweep.communicate(timeout=PATIENCE)
    assert sweep.returncode == 1, errors
    assert f"stopped: Ray does not answer any more: {called}" in errors
    assert "go on with: " in errors and "--resume" in errors
    assert "state-dump" not in output + errors and "Traceback" not in output + errors


def test_a_sigterm_while_ray_starts_is_answered(repository, tmp_path):
    sweep = start_sweep(repository, tmp_path, overrides=LONG)
    wait_for(lambda: child(sweep, "gcs_server"), 120, "Ray's first process")
    sweep.send_signal(signal.SIGTERM)
    _, errors = sweep.communicate(timeout=PATIENCE)
    assert sweep.returncode == 130, errors
    assert "interrupted by SIGTERM: nothing was started yet; start it again as before" in errors
    assert "Traceback" not in errors and not (tmp_path / "results/quickstart/space.yaml").exists()


def test_a_second_signal_leaves_at_once_and_still_says_how_to_go_on(repository, tmp_path):
    sweep = start_sweep(repository, tmp_path, overrides=LONG)
    wait_for_checkpoints(tmp_path / "results/quickstart/journal.jsonl", 1, sweep)
    for number in (signal.SIGTERM, signal.SIGINT):
        sweep.send_signal(number)
    _, errors = sweep.communicate(timeout=PATIENCE)
    assert sweep.returncode == 130, errors
    assert "go on with: " in errors and "--resume" in errors and "Traceback" not in errors


def test_a_long_temporary_folder_is_replaced_for_rays_sockets_and_said(repository, tmp_path):
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    overrides = [*SMALL, "search.trials=1", "select=null", "confirm=null"]
    done = run_sweep(repository, tmp_path, overrides=overrides, variables={"TMPDIR": str(deep), "RAY_TMPDIR": ""})
    assert done.returncode == 0, done.stderr
    assert "Ray's own files are in /tmp/ctxtune-" in done.stdout + done.stderr
    assert list(Path(deep).glob("*ctxtune*")) == []


def test_commands_for_copying_are_quoted(repository, tmp_path):
    odd = tmp_path / "with space and 'quote'"
    odd.mkdir()
    sweep = start_sweep(repository, tmp_path, "--results", str(odd), overrides=LONG)
    wait_for_checkpoints(odd / "quickstart/journal.jsonl", 1, sweep)
    sweep.send_signal(signal.SIGINT)
    _, errors = sweep.communicate(timeout=PATIENCE)
    (line,) = [line for line in errors.splitlines() if line.startswith("go on with: ")]
    printed = subprocess.run(
        ["sh", "-c", f"printf '%s\\n' {line.removeprefix('go on with: ')}"], capture_output=True, text=True, timeout=30
    )
    assert str(odd) in printed.stdout.splitlines()


def test_where_ray_does_not_start_it_is_tried_again_and_then_told(repository):
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", NO_PLACE],
            cwd=folder,
            env=environment(repository),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
    assert done.stdout.count("Ray has not started in time") == 2 and "trying again (3 of 3)" in done.stdout, done.stderr
    assert "error: Ray could not be started on this machine, tried 3 times" in done.stdout
    assert "gcs_server" not in done.stdout.splitlines()[-1]
