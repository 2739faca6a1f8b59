"""The spool's runs on the server: found by their key, or made, each once, however late the server answers.

A request to make a run that got no answer leaves a doubt: the run may be there, or come into being minutes later. The
doubt is noted in the spool before the request is sent. As long as it stands the run is looked up by its key again, before
anything is written to it, at its end and when the delivery ends; one run is adopted, and what else has its key is set aside.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from ctxtune.tracking.connection import NO_CONTENT, single_requests, sorted_errors
from ctxtune.tracking.duplicates import KEY_TAG, counted_run, is_settled, set_aside
from ctxtune.tracking.errors import ExperimentLost, Refused, RequestTooLarge, SpoolFullError, Unreachable
from ctxtune.tracking.spool import Spool, SpooledRun, now_ms
from ctxtune.tracking.views import RUN_TAGS

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

DOUBT_SECONDS = 600.0
"""A request that got no answer so long ago has been carried out by now, or never will be."""
_PAUSES = (0.05, 0.1, 0.2)
"""Before the further tries of one request at a server that fails for a moment."""
Answer = TypeVar("Answer")


class RemoteRuns:
    """Which run of an MLflow experiment belongs to which run of a spool.

    `known_empty`: the experiment was made by this process, so that it holds no runs but those made here.
    """

    def __init__(self, client: "MlflowClient", uri: str, experiment_id: str, spool: Spool, *, known_empty: bool):
        self._client = client
        self._uri = uri
        self._experiment_id = experiment_id
        self._spool = spool
        self._known_empty = known_empty
        # Kept here too, since on a full disk the spool cannot note them.
        self._ids: dict[int, tuple[str, bool]] = {}
        self._doubts: set[int] = {run.number for run in spool.doubtful()}

    def ask(self, call: Callable[[], Answer]) -> Answer:
        """Make a request that may be repeated, again at once where the server fails. Raises Unreachable, Refused."""
        for pause in (*_PAUSES, None):
            try:
                with sorted_errors(self._uri):
                    return call()
            except Unreachable as error:
                if pause is None or error.waited:
                    raise
                time.sleep(pause)
        raise AssertionError("the last try returns or raises")

    def is_known(self, run: SpooledRun) -> bool:
        """Whether the id of a run is known without asking."""
        return run.run_id is not None or run.number in self._ids

    def forget(self, run: SpooledRun) -> None:
        """The server has lost a run."""
        self._ids.pop(run.number, None)
        self._doubts.add(run.number)
        self._spool.set_run_id(run.number, None)

    def resolve(self, run: SpooledRun, tags: dict[str, str], parent: Callable[[], str | None]) -> tuple[str, bool]:
        """The run's id, and whether the run is older than the spool: remembered, found by its key, or made now.

        Args:
            tags: what a new run is made with, besides its own.
            parent: the id of its parent run.
        """
        if run.number in self._ids:
            return self._ids[run.number]
        run_id, adopted = run.run_id, run.adopted
        if run_id is None:
            run_id, adopted = self._find_or_create(run, tags, parent)
        self._ids[run.number] = run_id, adopted
        if run.run_id is None:
            self._spool.set_run_id(run.number, run_id, adopted=adopted)
        return run_id, adopted

    def find(self, key: str, known: str | None = None) -> str | None:
        """The id of the run with a key: `known` if it is among them, else the one that counts. All others are set aside."""
        runs = self.ask(
            lambda: self._client.search_runs([self._experiment_id], f"tags.`{KEY_TAG}` = '{key}'", max_results=20)
        )
        if not runs:
            return None
        ours = next((run for run in runs if run.info.run_id == known), None) or counted_run(runs)
        for run in runs:
            if run is not ours and not is_settled(run):
                set_aside(self._client, run, ours.info.run_id, self.ask)
        return str(ours.info.run_id)

    def settle(self, number: int) -> None:
        """Look again for a second run in the place of one whose creation was asked for more than once. Raises Unreachable."""
        if number not in self._doubts:
            return
        run = self._spool.run(number)
        if run.run_id is None:
            return
        self.find(run.key, known=run.run_id)
        if run.doubt is None or now_ms() - run.doubt > 1000 * DOUBT_SECONDS:
            self._note_doubt(number, None)

    def settle_all(self) -> None:
        """The same for every run in doubt."""
        for number in sorted(self._doubts):
            self.settle(number)

    def _find_or_create(
        self, run: SpooledRun, tags: dict[str, str], parent: Callable[[], str | None]
    ) -> tuple[str, bool]:
        for pause in (*_PAUSES, None):
            doubted = run.number in self._doubts
            if doubted or not self._known_empty:
                found = self.find(run.key)
                if found is not None:
                    return found, True
            try:
                made = self._create(run, tags, parent())
                return (self.find(run.key, known=made) or made, False) if doubted else (made, False)
            except Unreachable as error:
                if pause is None or error.waited:
                    raise
                time.sleep(pause)
        raise AssertionError("the last try returns or raises")

    def _create(self, run: SpooledRun, tags: dict[str, str], parent: str | None) -> str:
        info = run.info
        first = {"state": "running", **RUN_TAGS, **info["tags"], **tags, KEY_TAG: run.key, "kind": info["kind"]}
        if parent is not None:
            first["mlflow.parentRunId"] = parent
        doubted = run.number in self._doubts
        self._note_doubt(run.number, now_ms())
        try:
            with sorted_errors(self._uri), single_requests():
                made = self._client.create_run(
                    self._experiment_id, start_time=info["start_time"], tags=first, run_name=info["name"]
                )
        except RequestTooLarge as error:  # a run begins with little
            raise Unreachable(str(error), answered=True) from None
        except Refused:
            experiment = self._experiment()
            if experiment.lifecycle_stage == "active":
                raise
            # Not the run's fault: wait until someone restores the experiment.
            raise Unreachable(f"the experiment {experiment.name!r} was deleted; restore it in MLflow") from None
        if not made.info.run_id:
            raise Unreachable(NO_CONTENT, answered=True)
        if not doubted:
            self._note_doubt(run.number, None)
        return str(made.info.run_id)

    def _experiment(self) -> "Experiment":
        try:
            with sorted_errors(self._uri):
                return self._client.get_experiment(self._experiment_id)
        except Refused as error:
            raise ExperimentLost(f"the experiment is no longer there ({error})") from None

    def _note_doubt(self, number: int, doubt: int | None) -> None:
        if doubt is None:
            self._doubts.discard(number)
        else:
            self._doubts.add(number)
        with suppress(SpoolFullError):
            self._spool.set_doubt(number, doubt)
