"""`benchmarks/gpu.py` in small on a CPU: every section works, and none can take the others with it."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.helpers.processes import PATIENCE


@pytest.fixture(scope="module")
def benchmark(repository):
    path, before = sys.path[:], set(sys.modules)
    sys.path.insert(0, str(repository / "benchmarks"))  # as for a script that is run
    spec = importlib.util.spec_from_file_location("gpu_benchmark", repository / "benchmarks" / "gpu.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    sys.path[:] = path
    folder = str(repository / "benchmarks")
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(folder):
            del sys.modules[name]


def fine(scale, report):
    report.row("table", size=3, ms=0.25)
    report.check("small enough", 0.25, most=1.0)


def broken(scale, report):
    report.row("table", size=1)
    raise RuntimeError("no such kernel")


def dying(scale, report):
    report.row("table", size=2)
    os.kill(os.getpid(), signal.SIGKILL)


def endless(scale, report):
    report.row("table", size=4)
    (scale.folder / "child").write_text(str(subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1).pid))
    time.sleep(600)


def ended(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return ") Z" in Path(f"/proc/{pid}/stat").read_text()


def test_a_section_that_fails_dies_or_takes_too_long_is_reported_and_the_others_go_on(benchmark, tmp_path):
    scale = benchmark.Scale(tiny=True, device=torch.device("cpu"), folder=tmp_path)
    sections = {"broken": (broken, 60), "dying": (dying, 60), "endless": (endless, 3), "fine": (fine, 60)}
    found = benchmark.run_sections(sections, scale, minutes=5)
    outcomes = {name: outcome for name, (outcome, _) in found.items()}
    assert {name: outcome.status for name, outcome in outcomes.items()} == {
        "broken": "failed",
        "dying": "failed",
        "endless": "failed",
        "fine": "done",
    }
    assert "RuntimeError: no such kernel" in outcomes["broken"].reason
    assert "-9" in outcomes["dying"].reason
    assert outcomes["endless"].reason == "took longer than 3 s"
    assert ended(int((tmp_path / "child").read_text())), "what it had started ends with it"
    for name, size in {"broken": 1, "dying": 2, "endless": 4}.items():
        assert found[name][1]["tables"] == {"table": [{"size": size}]}, "what it had found is kept"
    assert found["fine"][1]["checks"] == [{"check": "small enough", "found": 0.25, "goal": "<= 1", "met": True}]


def test_what_there_is_no_time_for_is_not_run(benchmark, tmp_path):
    scale = benchmark.Scale(tiny=True, device=torch.device("cpu"), folder=tmp_path)
    found = benchmark.run_sections({"fine": (fine, 60)}, scale, minutes=0.01)
    assert found["fine"][0].status == "not run"


@pytest.mark.slow
def test_all_sections_run_in_small_on_a_cpu(repository, tmp_path):
    written = tmp_path / "gpu.json"
    command = [sys.executable, "benchmarks/gpu.py", "--tiny", "--device", "cpu", "--json", str(written)]
    done = subprocess.run(
        # What `tests` collects is collected here already, and takes long.
        [*command, "--skip", "tests"], cwd=repository, capture_output=True, text=True, timeout=PATIENCE, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(repository)},
    )  # fmt: skip
    found = json.loads(written.read_text())
    assert {name: section["status"] for name, section in found.items() if section["status"] != "done"} == {}, (
        done.stdout[-5000:]
    )
    assert set(found) == {
        *("machine", "loss", "scores", "step", "images", "share"),
        *("omniglot", "features", "head", "precision", "compiled"),
    }
    assert all(section["tables"] for section in found.values())
    # Speed is not for a test; whether values agree is.
    missed = [check["check"] for section in found.values() for check in section["checks"] if not check["met"]]
    assert set(missed) <= {"ours / bare", "ours / plain", "head on kept features: ours / a bare loop in memory"}
    # No goal is missed without the status saying so.
    assert done.returncode == (1 if missed else 0)
    assert "float64: difference from the direct form on the CPU" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tiny", "--data", "missing.zip"], "--data: there is no missing.zip"),
        (["--tiny", "--json", "no/such/folder/x.json"], "--json: there is no folder"),
        (["--device", "cpu"], "only --tiny is of use"),
        (["--sections", "nothing"], "invalid choice"),
    ],
)
def test_bad_arguments_are_refused(benchmark, capsys, arguments, message):
    with pytest.raises(SystemExit) as ended_with:
        benchmark.parse(arguments)
    assert ended_with.value.code == 2
    assert message in capsys.readouterr().err
