"""`notify`: a URL or a command is told how a sweep, an ablation or a run has ended. Nothing fails because of it."""

import json
import os
import platform
import subprocess
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Literal

from ctxtune.config.sweep import NotifySettings
from ctxtune.redaction import without_secrets
from ctxtune.text import duration, shortened
from ctxtune.version import __version__

State = Literal["completed", "interrupted", "failed"]
ATTEMPTS, PAUSE_SECONDS, ANSWER_SECONDS, COMMAND_SECONDS = 3, 2.0, 10.0, 60.0
MOST_TEXT = 1500
"""Characters of a message, which chat services show whole."""


@dataclass
class Outcome:
    """What is told of a success; whoever works inside `notifying` fills it in."""

    message: str = ""


@dataclass(frozen=True)
class Notification:
    """The JSON that is sent; `text` says all of it in a sentence."""

    text: str
    command: str
    name: str
    state: State
    message: str
    hours: float
    host: str
    ctxtune: str = field(default=__version__)


@contextmanager
def notifying(settings: NotifySettings | None, command: str, name: str) -> Iterator[Outcome]:
    """Tell how what is done inside has ended, whatever that is.

    Args:
        settings: None: nobody is told.
        command: sweep, ablate or train; `name`: of its file.
    """
    outcome, began = Outcome(), time.monotonic()
    state: State = "failed"
    try:
        yield outcome
        state = "completed"
    except BaseException as error:
        stopped_by_hand = isinstance(error, KeyboardInterrupt) or getattr(error, "reason", "") == "interrupted"
        state = "interrupted" if stopped_by_hand else "failed"
        outcome.message = str(error) or type(error).__name__
        raise
    finally:
        if settings is not None and (state != "completed" or not settings.only_failures):
            tell(settings, _notification(command, name, state, outcome.message, (time.monotonic() - began) / 3600))


def tell(settings: NotifySettings, notification: Notification) -> None:
    """Send a notification; what goes wrong with it is a warning."""
    content = json.dumps(asdict(notification)).encode()
    if settings.url is not None:
        failure = _post(settings.url, content)
        if failure:
            warnings.warn(f"notify.url: {settings.places}: {failure}; nobody was told there", stacklevel=3)
    if settings.command is not None:
        failure = _run(settings.command, content, notification)
        if failure:
            warnings.warn(f"notify.command: {failure}", stacklevel=3)


def _notification(command: str, name: str, state: State, message: str, hours: float) -> Notification:
    message = shortened(without_secrets(message), MOST_TEXT)
    text = f"ctxtune {command} {name}: {state} after {duration(hours)}" + (f". {message}" if message else "")
    return Notification(text, command, name, state, message, round(hours, 4), platform.node())


def _post(url: str, content: bytes) -> str:
    """Send by POST, a few times where there is no answer; why it failed, without the address, "" if it did not."""
    headers = {"Content-Type": "application/json", "User-Agent": f"ctxtune/{__version__}"}
    failure = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE_SECONDS)
        try:
            request = urllib.request.Request(url, content, headers)  # http and https alone are let through
            with urllib.request.urlopen(request, timeout=ANSWER_SECONDS):
                return ""
        except urllib.error.HTTPError as error:
            failure = f"HTTP status {error.code}"
            if error.code < 500:
                return failure
        except (OSError, ValueError) as error:  # URLError is an OSError; ValueError: an address that is none
            reason = getattr(error, "reason", error)
            failure = getattr(reason, "strerror", None) or type(reason).__name__
    return failure


def _run(command: str, content: bytes, notification: Notification) -> str:
    """Run a command; why it failed, without its text, "" if it did not."""
    told = {key.upper(): str(value) for key, value in asdict(notification).items() if key != "ctxtune"}
    environment = {**os.environ, **{f"CTXTUNE_{key}": value for key, value in told.items()}}
    try:
        done = subprocess.run(
            command,
            shell=True,
            input=content,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=COMMAND_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"it was ended after {COMMAND_SECONDS:.0f} s"
    except (OSError, ValueError) as error:
        return str(getattr(error, "strerror", None) or error)
    return f"it ended with status {done.returncode}" if done.returncode else ""
