"""Standard output may be full, closed, or read by nobody: a status and at most one line."""

import subprocess
import sys

import pytest

LOST = "error: standard output cannot be written (No space left on device)\n"


@pytest.mark.parametrize(
    ("redirected", "needed", "status", "told", "errors"),
    [
        (">/dev/full", True, 74, "begun ", LOST),
        (">/dev/full", False, 74, "begun done ", LOST),
        ("| true", True, 141, "begun ", ""),
        ("| true", False, 141, "begun done ", ""),
        (">&-", True, 0, "begun done ", ""),
        ("2>/dev/full >/dev/null", True, 0, "begun done ", ""),
        (">&- 2>&- <&-", True, 0, "begun done ", ""),
    ],
)
def test_output_that_cannot_be_written(tmp_path, repository, redirected, needed, status, told, errors):
    (tmp_path / "command.py").write_text(
        f"import sys, time; sys.path.insert(0, {str(repository)!r})\n"
        "from pathlib import Path\n"
        "from ctxtune.command_line import run_command\n"
        "from ctxtune.standard_streams import go_on_without_output\n"
        "def main():\n"
        f"    {'pass' if needed else 'go_on_without_output()'}\n"
        "    with Path('told').open('w', buffering=1) as file:\n"
        "        file.write('begun ')\n"
        "        time.sleep(0.1)\n"
        "        print('x' * 100_000)\n"
        "        print('an error', file=sys.stderr)\n"
        "        file.write('done ')\n"
        "run_command(main)\n"
    )
    command = f"set -o pipefail; {sys.executable} command.py {redirected}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path)
    said = done.stderr.replace("an error\n", "")
    assert (done.returncode, (tmp_path / "told").read_text(), said) == (status, told, errors)


def test_ray_needs_docstrings(repository, tmp_path):
    done = subprocess.run(
        [sys.executable, "-OO", "-m", "ctxtune.sweep", "quickstart"],
        capture_output=True, text=True, cwd=tmp_path, env={"PYTHONPATH": str(repository)},
    )  # fmt: skip
    assert done.returncode == 2 and done.stderr.startswith("error: PYTHONOPTIMIZE=2") and done.stderr.count("\n") == 1
