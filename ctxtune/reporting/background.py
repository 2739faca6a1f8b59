"""Work beside the work at hand: reading, importances and figures each take seconds of one core."""

import multiprocessing
import pickle
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from ctxtune.signals import leave_signals_to_parent

Result = TypeVar("Result")


def begin(task: Callable[[], Result], processes: int) -> Callable[[], Result]:
    """Begin a task in a forked process (Linux); the function that is returned waits for its result, or raises its error.

    Forked, not spawned: what has been read and imported is there at once, and closures need no pickling; only the result
    does. Not for callers with threads of their own, such as a sweep's driver: with `processes` 1 the task is done here,
    when its result is asked for.
    """
    if processes < 2 or sys.platform != "linux":
        return task
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_result, args=(task, sender), daemon=True)
    process.start()
    sender.close()

    def result() -> Result:
        with receiver:
            try:
                done, value = receiver.recv()  # of any type: what the task returns, or raises
            except (EOFError, OSError, pickle.UnpicklingError):  # it was killed
                return task()
        process.join()
        if not done:
            raise value
        found: Result = value
        return found

    return result


def _send_result(task: Callable[[], Any], sender: Any) -> None:
    leave_signals_to_parent()
    try:
        sender.send((True, task()))
    except Exception as error:  # noqa: BLE001 - raised again by who waits for it
        sender.send((False, error))
    sender.close()
