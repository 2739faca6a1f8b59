"""What a sweep leaves on a terminal."""

import os
import pty
import select
import signal
import sys
import time

import pytest

from tests.helpers.processes import environment


@pytest.mark.slow
def test_after_ctrl_c_the_command_that_goes_on_stands_below_what_the_display_has_erased(repository, tmp_path):
    command = [sys.executable, "-m", "ctxtune.sweep", str(repository / "search_spaces/quickstart.yaml")]
    pid, screen = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        os.execve(
            sys.executable, [*command, "--set", "resources.cpus=1"], {**environment(repository), "COLUMNS": "150"}
        )
    shown, sent, deadline = b"", False, time.monotonic() + 200
    while time.monotonic() < deadline:
        if select.select([screen], [], [], 1.0)[0]:
            try:
                shown += os.read(screen, 65536)
            except OSError:  # its end
                break
        if not sent and b"trial-0001" in shown:
            os.kill(pid, signal.SIGINT)
            sent = True
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130
    left = shown.decode().rpartition("\x1b[2K")[2]
    assert "stopped: interrupted by SIGINT" in left
    assert "go on with" in left and left.rstrip().endswith("--resume")
