"""Emptying a spool: as the Tracker's delivery process, or once, for `replay`.

Delivery is a process of its own so that neither MLflow's imports nor its requests cost the driver time or memory.
"""

import json
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from ctxtune.errors import ConfigError, TrackingError
from ctxtune.locks import open_lock, try_lock
from ctxtune.tracking.addresses import absolute_uri, has_secret, redact, sqlite_path
from ctxtune.tracking.connection import check_file_store, connect, ensure_experiment, import_client, usable
from ctxtune.tracking.delivery import Delivery
from ctxtune.tracking.errors import ExperimentLost, Refused, SpoolFullError, Unreachable
from ctxtune.tracking.spool import Spool

POLL_SECONDS = 0.2
SYNC_SECONDS = 1.0
SETTLE_SECONDS = 30.0
"""So often an idle delivery looks for runs that a slow server has made twice."""
FIRST_BACKOFF_SECONDS = 0.5
MAX_BACKOFF_SECONDS = 5.0
WRITER_LOCK, DELIVERY_LOCK = "writer.lock", "delivery.lock"
_BATCH = 20_000
"""So many events are taken up at a time. Those of one run go in one request: where a server is slower than a fleet, the
backlog makes requests larger, not more, and so the delivery stays behind by two passes at most."""
_FILES = 10


@contextmanager
def exclusive(path: Path) -> Iterator[bool]:
    """Hold a lock file for the block; yields False if another process holds it. Raises TrackingError."""
    with spool_lock(path) as file:
        yield try_lock(file)


def spool_lock(path: Path) -> IO[str]:
    """Open a lock file of a spool. Raises TrackingError where it is no file, or may not be written."""
    try:
        return open_lock(path)
    except ConfigError as error:
        raise TrackingError(str(error)) from None


class SpoolDelivery:
    """Delivers what a spool holds, one pass at a time, connecting when needed."""

    def __init__(self, spool: Spool, uri: str, experiment: str, may_go_on: Callable[[], bool] = lambda: True) -> None:
        self._spool = spool
        self._uri = uri
        self._experiment = experiment
        self._may_go_on = may_go_on
        self._delivery: Delivery | None = None
        self._delivered = 0
        self._files_after = 0.0
        self._files_backoff = FIRST_BACKOFF_SECONDS

    @property
    def delivered(self) -> int:
        """How many events were taken off the spool so far."""
        return self._delivered + (self._delivery.delivered if self._delivery else 0)

    def settle(self) -> None:
        """Set aside what a slow server has made twice by now. Raises Unreachable, TrackingError."""
        if self._spool.doubtful():
            self._connect().settle()

    def check(self, asking: Callable[[], None]) -> None:
        """Find out whether the store can be used, in seconds: a database without tables gets them only later.

        `asking` is called when MLflow is imported and the server is about to be asked. Raises TrackingError with the
        message for the user.
        """
        path = sqlite_path(self._uri)
        if path is not None and not check_file_store(path):
            return
        import_client(retries=0, timeout_seconds=20)
        asking()
        with usable(self._uri):
            self._connect()

    def run_once(self) -> int:
        """Deliver one batch; how many events were taken up. Raises Unreachable, TrackingError."""
        delivery = self._connect()
        try:
            return self._deliver_all(delivery)
        except ExperimentLost:  # an experiment of this name is looked up, or made, at the next try
            self._delivered, self._delivery = self.delivered, None
            raise

    def _deliver_all(self, delivery: Delivery) -> int:
        taken, failure = 0, None
        try:
            taken = delivery.deliver(_BATCH, self._may_go_on)
        except Unreachable as error:
            if not error.answered:
                raise
            failure = error  # it fails at some things; files may be taken
        if taken < _BATCH and time.monotonic() >= self._files_after:
            taken += self._deliver_files(delivery)
        if failure is not None:
            raise failure
        return taken

    def _deliver_files(self, delivery: Delivery) -> int:
        # Artifacts may live in a store of their own (S3): its trouble must not hold up the metrics.
        files = self._spool.batch(_FILES, files=True)
        failures: list[Unreachable] = []
        for event in files:
            if not self._may_go_on():
                break
            try:
                delivery.deliver_file(event)
                self._files_backoff = FIRST_BACKOFF_SECONDS
            except Unreachable as error:
                failures.append(error)
                if not error.answered:
                    break
        if failures:
            self._files_after = time.monotonic() + self._files_backoff
            self._files_backoff = min(2 * self._files_backoff, 60.0)
            raise failures[0]
        return len(files)

    def _connect(self) -> Delivery:
        if self._delivery is None:
            client = connect(self._uri, retries=0, timeout_seconds=20)
            experiment_id, made = ensure_experiment(client, self._uri, self._experiment)
            self._spool.set_state(experiment_id=experiment_id)
            self._delivery = Delivery(client, self._uri, experiment_id, self._spool, known_empty=made)
        return self._delivery


def replay(folder: Path, uri: str | None = None, progress: Callable[[int], None] = lambda pending: None) -> int:
    """Deliver everything that is left in a spool, also what the server refused earlier; how many events that were.

    `uri` None means the address that the spool was made for. Raises TrackingError where the spool is in use, the
    server cannot be reached, or something was refused again.
    """
    spool = Spool(folder, create=False)
    stored, experiment = spool.state("uri"), spool.state("experiment")
    if stored is None or experiment is None:
        raise TrackingError(f"The tracking spool {folder} names no server and no experiment: nothing was ever spooled")
    target = absolute_uri(uri) if uri else stored
    with (
        exclusive(folder / WRITER_LOCK) as alone,
        exclusive(folder / DELIVERY_LOCK) as undisturbed,
    ):
        if not alone or not undisturbed:
            raise TrackingError(f"The tracking spool {folder} is in use by a running sweep, which delivers it itself")
        if redact(target) != stored:
            spool.forget_run_ids()
            spool.set_state(uri=redact(target), secret="yes" if has_secret(target) else None)
        spool.retry_refused()
        before = spool.pending()
        try:
            delivery = SpoolDelivery(spool, target, experiment)
            while delivery.run_once():
                progress(spool.pending())
            delivery.settle()
        except (Unreachable, Refused) as error:
            raise TrackingError(_not_replayed(spool, target, error, with_uri=uri is not None)) from None
        spool.set_state(last_error=None)
        refused = spool.counts().refused
        if refused:
            raise TrackingError(
                f"{before - refused} events were delivered, {refused} are refused by {redact(target)}; "
                f"see python -m ctxtune.tracking status {shlex.quote(str(folder))}"
            )
    spool.close()
    return before


def _not_replayed(spool: Spool, uri: str, error: Unreachable | Refused, *, with_uri: bool) -> str:
    answered = isinstance(error, Refused) or error.answered
    trouble = "answers with an error, its own log says why" if answered else "cannot be reached"
    message = f"The tracking server {redact(uri)} {trouble} ({error}); {spool.pending()} events stay spooled"
    if spool.state("secret") and not with_uri:
        message += ". Its address held a user name and password, which are not stored: give it again with --uri"
    return message


# ---------------------------------------------------------------------- the Tracker's delivery process


class DeliveryProcess:
    """Serves one spool until the driver goes away.

    The driver speaks over standard input: first a line of JSON (uri, experiment, owner), then a line whenever it wants
    an attempt at once; the end of the input means that it has closed the spool or died. Then what is left is delivered
    as long as the server takes it, unless a new owner waits for the spool.
    """

    def __init__(self, folder: Path) -> None:
        self._spool = Spool(folder, create=False)
        self._folder = folder
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._owner = ""
        self._noted: str | None = None

    def run(self) -> None:
        """Deliver until the driver goes away."""
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # Ctrl-C is meant for the driver, which then closes the spool
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # in order: a store that is being made is removed
        orders = json.loads(sys.stdin.readline())
        self._owner = orders["owner"]
        threading.Thread(target=self._listen, daemon=True).start()
        threading.Thread(target=self._sync, daemon=True).start()
        while self._is_owner():
            # The delivery process of an earlier owner may be in the middle of a request.
            with exclusive(self._folder / DELIVERY_LOCK) as alone:
                if alone:
                    delivery = SpoolDelivery(self._spool, orders["uri"], orders["experiment"], self._is_owner)
                    self._check(delivery)
                    self._serve(delivery)
                    return
            time.sleep(0.05)

    def _check(self, delivery: SpoolDelivery) -> None:
        try:
            delivery.check(lambda: self._spool.set_state(asking=self._owner))
            result = ""
        except TrackingError as error:
            result = str(error)
        self._spool.set_state(checked=json.dumps({"owner": self._owner, "error": result}))

    def _serve(self, delivery: SpoolDelivery) -> None:
        backoff = FIRST_BACKOFF_SECONDS
        settled = time.monotonic()
        while self._is_owner():
            pause, before = POLL_SECONDS, delivery.delivered
            try:
                pause = 0.0 if delivery.run_once() else pause
                if pause and (self._closing.is_set() or time.monotonic() - settled > SETTLE_SECONDS):
                    delivery.settle()
                    settled = time.monotonic()
                backoff = FIRST_BACKOFF_SECONDS
                self._note(None)
            except (Unreachable, Refused, TrackingError) as error:
                if delivery.delivered > before:  # errors now and then, but takes some
                    backoff = FIRST_BACKOFF_SECONDS
                pause, backoff = backoff, min(2 * backoff, MAX_BACKOFF_SECONDS)
                self._note(str(error))
                if self._closing.is_set():
                    return
            if pause and self._closing.is_set():
                return
            if pause and self._wake.wait(pause):
                self._wake.clear()
                backoff = FIRST_BACKOFF_SECONDS

    def _is_owner(self) -> bool:
        return self._spool.state("owner") == self._owner

    def _note(self, error: str | None) -> None:
        if error != self._noted:
            self._noted = error
            with suppress(SpoolFullError):
                self._spool.set_state(last_error=error)

    def _listen(self) -> None:
        for _ in sys.stdin:
            self._wake.set()
        self._closing.set()
        self._wake.set()

    def _sync(self) -> None:
        spool = Spool(self._folder, create=False)
        version = -1
        while True:
            time.sleep(SYNC_SECONDS)
            with suppress(TrackingError):
                if spool.version() != version:
                    spool.sync()
                    version = spool.version()
