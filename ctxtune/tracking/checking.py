"""Finding out whether a store can be used without making anything in it, as dry runs do."""

import json
import subprocess

from ctxtune.errors import TrackingError
from ctxtune.tracking.addresses import absolute_uri, redact, sqlite_path
from ctxtune.tracking.connection import (
    check_active,
    check_driver,
    check_file_store,
    import_client,
    sorted_errors,
    usable,
)
from ctxtune.tracking.processes import process_environment, tracking_command

CHECK_SECONDS = 60.0
"""For importing MLflow, on a machine in full use, and an answer; a request over HTTP is given up after 20 s."""


def check_store(uri: str, experiment: str) -> None:
    """Find out whether a store can take an experiment. Neither the experiment nor the store is made.

    A process of its own asks MLflow: importing it takes seconds, and a database driver may wait for an answer for minutes.

    Raises TrackingError.
    """
    uri = absolute_uri(uri)
    path = sqlite_path(uri)
    if path is not None and not check_file_store(path):
        return
    try:
        asked = subprocess.run(
            tracking_command("check"),
            input=json.dumps({"uri": uri, "experiment": experiment}),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=process_environment(),
            start_new_session=True,
            timeout=CHECK_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise TrackingError(f"The tracking server {redact(uri)} gives no answer within {CHECK_SECONDS:.0f} s") from None
    if asked.returncode:
        reason = asked.stdout.strip() or f"the process that asked it ended with status {asked.returncode}"
        raise TrackingError(reason)


def ask_store(uri: str, experiment: str) -> None:
    """What that process does. Raises TrackingError with the message for the user."""
    client_class = import_client(retries=0, timeout_seconds=20)
    check_driver(uri)
    with usable(uri), sorted_errors(uri):
        found = client_class(tracking_uri=uri).get_experiment_by_name(experiment)
        if found is not None:
            check_active(found, uri)
