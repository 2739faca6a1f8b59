"""The tests that need a GPU."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from gpu_checks.report import Report, Scale

REPOSITORY = Path(__file__).resolve().parents[2]
PROCESSES = 4


def tests(scale: Scale, report: Report) -> None:
    """Run them all, in a few processes; without a GPU only see that each can be collected.

    Only files that hold such tests are named: others may import what is not installed here.
    """
    found = sorted(path for path in (REPOSITORY / "tests").rglob("test_*.py") if "mark.gpu" in path.read_text())
    files = [str(path.relative_to(REPOSITORY)) for path in found]
    results = scale.folder / "gpu-tests.xml"
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", f"--junitxml={results}", *files]
    command += ["-n", str(PROCESSES)] if scale.on_gpu else ["--collect-only"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if not scale.on_gpu:
        report.check(f"gpu tests collected from {len(files)} files", done.returncode == 0)
        return
    print(done.stdout[-6000:], done.stderr[-2000:], flush=True)
    cases = list(ElementTree.parse(results).iter("testcase")) if results.exists() else []
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = [case for case in cases if case.find("skipped") is not None]
    for case in failed:
        problem = next(child for child in case if child.tag in ("failure", "error"))
        report.row("tests that failed", test=case.get("name"), reason=(problem.get("message") or "")[:300])
    report.row(
        "tests",
        run=len(cases) - len(skipped),
        failed=len(failed),
        skipped=len(skipped),
        seconds=sum(float(case.get("time", 0)) for case in cases),
    )
    report.check("gpu tests pass", bool(cases) and not failed and not skipped and done.returncode == 0)
