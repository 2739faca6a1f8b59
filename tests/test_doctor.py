"""`ctxtune doctor`: what is well, what is not, and an exit status for scripts."""

import json
import shutil
import sys

import pytest

from ctxtune import doctor
from ctxtune.data.layouts.omniglot import TEST_ALPHABETS, TRAIN_ALPHABETS
from tests.helpers import trees
from tests.helpers.processes import run_here


def looked(folder, *arguments):
    done = run_here(doctor.main, folder, "--json", *arguments)
    findings = {}
    for finding in json.loads(done.stdout):
        findings.setdefault(finding["check"], []).append(finding)
    return done.returncode, findings


@pytest.mark.ray
@pytest.mark.slow
def test_a_machine_on_which_tests_run_is_well(tmp_path):
    status, findings = looked(tmp_path)
    assert status in (0, 1) and {"python", "torch", "gpu", "faiss", "tracking", "disk", "data", "ray"} <= set(findings)
    assert all(each["state"] != "fault" for found in findings.values() for each in found)
    assert findings["ray"][0]["state"] == "well"


def test_each_fault_is_named_with_what_to_do(tmp_path, monkeypatch, refusing_port):
    data = tmp_path / "data"
    trees.omniglot_folders(data / "omniglot", TRAIN_ALPHABETS + TEST_ALPHABETS, characters=1, images=1)
    (data / "cub200").mkdir()
    monkeypatch.setenv("CTXTUNE_DATA", str(data))
    usage = shutil.disk_usage(tmp_path)._replace(free=2**30)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)
    status, findings = looked(tmp_path, "--quick", "--tracking", f"http://127.0.0.1:{refusing_port}")
    assert status == 2 and findings["tracking"][0]["state"] == "fault"
    assert findings["disk"][0]["state"] == "warning" and "1.0 GiB free" in findings["disk"][0]["found"]
    told = {each["state"]: each["found"] for each in findings["data"]}
    assert told["fault"].startswith("cub200: looked in") and "officially" in told["warning"]
    assert all(each["remedy"] for found in findings.values() for each in found if each["state"] != "well")


def test_a_check_that_breaks_is_a_fault_of_its_own():
    def broken():
        raise ImportError("no module", name="torchvision")
        yield

    (finding,) = doctor._looked(broken)
    assert finding.state == "fault" and "torchvision" in finding.found and "pip install" in finding.remedy


def test_what_it_says_is_printed_as_it_is(tmp_path, monkeypatch):
    """Square brackets are no instructions to the terminal."""
    monkeypatch.setitem(sys.modules, "faiss", None)
    done = run_here(doctor.main, tmp_path, "--quick")
    assert "ctxtune[cpu]" in " ".join(done.stdout.split()) or "ctxtune[cpu" in done.stdout, done.stdout
