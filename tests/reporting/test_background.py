"""Tasks in a process beside the caller's."""

import os
import signal
import sys
import threading

import pytest

from ctxtune.errors import TrackingError
from ctxtune.reporting.background import begin

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks on Linux only")


def test_a_task_is_done_by_another_process_and_alone_by_this_one_when_asked():
    assert begin(os.getpid, 2)() != os.getpid()
    calls = []
    result = begin(lambda: calls.append(1) or os.getpid(), 1)
    assert calls == []
    assert result() == os.getpid()


def test_its_error_is_raised_where_its_result_is_asked_for():
    def refuse():
        raise TrackingError("no such sweep")

    for processes in (1, 2):
        result = begin(refuse, processes)
        with pytest.raises(TrackingError, match="no such sweep"):
            result()


def test_a_great_result_comes_through_the_pipe():
    assert begin(lambda: b"x" * 10_000_000, 2)() == b"x" * 10_000_000


def test_a_task_whose_process_was_killed_is_done_here():
    here = os.getpid()

    def die_elsewhere():
        if os.getpid() != here:
            os.kill(os.getpid(), signal.SIGKILL)
        return "done"

    assert begin(die_elsewhere, 2)() == "done"


def test_the_result_may_be_asked_for_late():
    result = begin(lambda: 42, 2)
    threading.Event().wait(0.2)  # it ends long before
    assert result() == 42
