"""From spooled events to requests: one create, one batch and one status change for a run, where possible.

Everything sent may be sent again: runs are found by their key, params and tags are the same values, metrics carry the
time at which they were spooled (MLflow's database holds one row for the same run, name, step, time and value).
"""

import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ctxtune.tracking.datasets import TrackedDataset, dataset_input
from ctxtune.tracking.errors import ExperimentLost, Refused, RequestTooLarge, Unreachable
from ctxtune.tracking.model_package import deliver_model
from ctxtune.tracking.remote_runs import RemoteRuns
from ctxtune.tracking.spool import EXPERIMENT, FILES, Event, Spool, SpooledRun

if TYPE_CHECKING:
    from mlflow import MlflowClient

# A server's limits for one request are 1000 metrics, 100 params, 100 tags and 1 MB (mlflow/utils/validation.py).
_MAX_METRICS, _MAX_TEXTS, _MAX_CHARACTERS = 800, 100, 400_000
# A run whose events make the server fail is left alone for a while, each time for longer; several runs in a row, none of
# which gets through, are an outage.
_FIRST_DELAY_SECONDS, _MAX_DELAY_SECONDS = 0.5, 5.0
_OUTAGE = 3
_LOST = "RESOURCE_DOES_NOT_EXIST"
_SMALL = 2_000
"""Characters; that these are too many for a request is said by something that answers so to everything."""
Refusal = tuple[Event, str]
Done = TypeVar("Done")


@dataclass(frozen=True)
class Item:
    """One metric value, param or tag."""

    kind: str
    name: str
    value: str | float
    step: int = 0
    timestamp: int = 0

    def event(self, run: int) -> Event:
        """The spool's event that holds just this item."""
        if self.kind != "metrics":
            return Event(0, run, self.kind, {self.name: self.value})
        body = {"step": self.step, "timestamp": self.timestamp, "values": {self.name: self.value}}
        return Event(0, run, "metrics", body)


@dataclass
class Work:
    """What the events of one run add up to."""

    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: list[Item] = field(default_factory=list)
    status: str | None = None
    end_time: int | None = None
    datasets: list[Event] = field(default_factory=list)

    def requests(self) -> Iterator[list[Item]]:
        """Everything but the status, in portions that a server takes."""
        texts = [Item("params", name, value) for name, value in self.params.items()]
        texts += [Item("tags", name, value) for name, value in self.tags.items()]
        portion: list[Item] = []
        size = 0
        for item in texts:
            length = len(item.name) + len(str(item.value))
            if portion and (len(portion) == _MAX_TEXTS or size + length > _MAX_CHARACTERS):
                yield portion
                portion, size = [], 0
            portion.append(item)
            size += length
        first = self.metrics[:_MAX_METRICS]
        if portion or first:
            yield portion + first
        for start in range(_MAX_METRICS, len(self.metrics), _MAX_METRICS):
            yield self.metrics[start : start + _MAX_METRICS]


def combine(run: SpooledRun, events: Iterable[Event]) -> Work:
    """Add events up in their order: the last value of a tag and the last status win."""
    work = Work()
    for event in events:
        if event.kind == "start":
            work.params |= run.info["params"]
            work.tags |= run.info["tags"]
        elif event.kind == "params":
            work.params |= event.body
        elif event.kind == "tags":
            work.tags |= event.body
        elif event.kind == "dataset":
            work.datasets.append(event)
        elif event.kind == "status":
            work.status, work.end_time = event.body["status"], event.body["time"]
        elif event.kind == "metrics":
            step, timestamp = event.body["step"], event.body["timestamp"]
            for name, value in event.body["values"].items():
                work.metrics.append(Item("metrics", name, value, step, timestamp))
    return work


class Delivery:
    """Hands the spool's events to one experiment of one store.

    `known_empty`: the experiment was made by this process, so that it holds no runs but those made here.
    """

    def __init__(self, client: "MlflowClient", uri: str, experiment_id: str, spool: Spool, *, known_empty: bool):
        self._client = client
        self._uri = uri
        self._experiment_id = experiment_id
        self._spool = spool
        self._runs = RemoteRuns(client, uri, experiment_id, spool, known_empty=known_empty)
        self._delayed_until: dict[int, float] = {}
        self._delays: dict[int, float] = {}
        self.delivered = 0
        """How many events were taken off the spool so far."""

    def deliver(self, limit: int, may_go_on: Callable[[], bool]) -> int:
        """Deliver the oldest events (no files) and take them off the spool, run by run; how many were taken up.

        `may_go_on` is asked before each run. Raises Unreachable.
        """
        now = time.monotonic()
        self._delayed_until = {run: until for run, until in self._delayed_until.items() if until > now}
        events = self._spool.batch(limit, files=False, without_runs=self._delayed_until)
        by_run: dict[int, list[Event]] = {}
        for event in events:
            by_run.setdefault(event.run, []).append(event)
        failures: list[Unreachable] = []
        in_a_row = 0
        for number, of_run in by_run.items():
            if not may_go_on():
                break
            try:
                if number == EXPERIMENT:
                    refused = self._describe_experiment(of_run)
                else:
                    refused = self._deliver_run(self._spool.run(number), of_run)
                self._take_off(of_run, refused)
                self._delays.pop(number, None)
                in_a_row = 0
            except Unreachable as error:
                failures.append(error)
                in_a_row += 1
                if not error.answered or in_a_row == _OUTAGE:
                    raise
                self._delay(number)
        if failures:
            raise failures[0]
        return len(events)

    def settle(self) -> None:
        """Set aside what a slow server has made twice by now. Raises Unreachable."""
        self._runs.settle_all()

    def _take_off(self, events: list[Event], refused: Iterable[Refusal]) -> None:
        self._spool.delivered(events, refused)
        self.delivered += len(events)

    def _delay(self, number: int) -> None:
        delay = self._delays.get(number, _FIRST_DELAY_SECONDS)
        self._delayed_until[number] = time.monotonic() + delay
        self._delays[number] = min(2 * delay, _MAX_DELAY_SECONDS)

    def deliver_file(self, event: Event) -> None:
        """Upload one spooled file, or the folder of a model, and remove it. Raises Unreachable."""
        path = self._spool.folder / FILES / event.body["stored"]
        refused: list[Refusal] = []
        try:
            if not path.exists():
                raise Refused("the spooled file is gone")
            self._again_if_lost(event.run, lambda: self._upload(event, path))
        except Refused as error:
            _unless_small(error, path.stat().st_size if path.is_file() else _SMALL)
            refused = [(event, str(error))]
        self._take_off([event], refused)
        if not refused:
            shutil.rmtree(path.parent, ignore_errors=True)

    def _upload(self, event: Event, path: Path) -> None:
        run_id, model = self._run_id(event.run), event.body.get("model")
        if model is None:
            self._runs.ask(lambda: self._client.log_artifact(run_id, str(path), event.body["folder"] or None))
        else:
            deliver_model(self._client, self._runs.ask, self._experiment_id, run_id, model, path)

    def _describe_experiment(self, events: list[Event]) -> list[Refusal]:
        refused = []
        for event in events:
            try:
                for name, value in event.body.items():
                    self._runs.ask(partial(self._client.set_experiment_tag, self._experiment_id, name, value))
            except Refused as error:
                if _LOST in str(error):
                    raise ExperimentLost(f"the experiment is no longer there ({error})") from None
                _unless_small(error, sum(map(len, event.body.values())))
                refused.append((event, str(error)))
        return refused

    # ------------------------------------------------------------------ one run

    def _deliver_run(self, run: SpooledRun, events: list[Event]) -> list[Refusal]:
        try:
            return self._again_if_lost(run.number, lambda: self._log(self._spool.run(run.number), events))
        except Refused as error:
            _unless_small(error, 0)  # what can be large has been split
            return [(event, str(error)) for event in events]

    def _again_if_lost(self, number: int, act: Callable[[], Done]) -> Done:
        """Do it once more where the server lost the run (its database was replaced, say), which is then made anew.

        Raises Unreachable where it loses the new one, too: it does so for now (a replica that is behind, say). Raises Refused.
        """
        try:
            return act()
        except Refused as error:
            if _LOST not in str(error):
                raise
        self._runs.forget(self._spool.run(number))
        try:
            return act()
        except Refused as error:
            if _LOST not in str(error):
                raise
            raise Unreachable(str(error), answered=True) from None

    def _log(self, run: SpooledRun, events: list[Event]) -> list[Refusal]:
        unknown = not self._runs.is_known(run)
        work = combine(run, [Event(0, run.number, "start", {}), *events] if unknown else events)
        run_id, adopted = self._resolve(run, work.tags)
        if unknown and not adopted:
            work.tags = {}  # the new run took them with it
        if adopted:
            work.metrics = self._not_yet_logged(run_id, work.metrics)
        refused = [refusal for request in work.requests() for refusal in self._send(run, run_id, request)]
        refused += [refusal for event in work.datasets for refusal in self._log_dataset(run_id, event)]
        if work.status == "RUNNING":
            self._runs.ask(lambda: self._client.update_run(run_id, status="RUNNING"))
        elif work.status is not None:
            status, end_time = work.status, work.end_time
            self._runs.ask(lambda: self._client.set_terminated(run_id, status, end_time))
            self._runs.settle(run.number)
        return refused

    def _send(self, run: SpooledRun, run_id: str, items: list[Item]) -> list[Refusal]:
        """Send one request; where it is refused, find out for which items by halving it."""
        from mlflow.entities import Metric, Param, RunTag

        metrics = [
            Metric(item.name, float(item.value), item.timestamp, item.step) for item in items if item.kind == "metrics"
        ]
        params = [Param(item.name, str(item.value)) for item in items if item.kind == "params"]
        tags = [RunTag(item.name, str(item.value)) for item in items if item.kind == "tags"]
        try:
            self._runs.ask(lambda: self._client.log_batch(run_id, metrics=metrics, params=params, tags=tags))
        except Refused as error:
            if _LOST in str(error):
                raise
            if len(items) == 1:
                _unless_small(error, len(str(items[0].value)))
                return [(items[0].event(run.number), str(error))]
            middle = len(items) // 2
            return self._send(run, run_id, items[:middle]) + self._send(run, run_id, items[middle:])
        return []

    def _log_dataset(self, run_id: str, event: Event) -> list[Refusal]:
        inputs = [dataset_input(TrackedDataset(**event.body))]
        try:
            self._runs.ask(lambda: self._client.log_inputs(run_id, inputs))
        except Refused as error:
            if _LOST in str(error):
                raise
            _unless_small(error, 0)
            return [(event, str(error))]
        return []

    def _not_yet_logged(self, run_id: str, metrics: list[Item]) -> list[Item]:
        """Without the steps that the server holds already: the spool that delivered them is lost."""
        steps: dict[str, set[int]] = {}
        if metrics:
            there = self._runs.ask(lambda: self._client.get_run(run_id)).data.metrics
            for name in {item.name for item in metrics} & set(there):
                points = self._runs.ask(partial(self._client.get_metric_history, run_id, name))
                steps[name] = {point.step for point in points}
        return [item for item in metrics if item.step not in steps.get(item.name, ())]

    def _run_id(self, number: int) -> str:
        """The id of a run that other runs or files need: made with all that belongs to it where it is missing."""
        run = self._spool.run(number)
        if not self._runs.is_known(run):
            self._log(run, [])
        return self._resolve(run, {})[0]

    def _resolve(self, run: SpooledRun, tags: dict[str, str]) -> tuple[str, bool]:
        return self._runs.resolve(run, tags, lambda: self._parent(run))

    def _parent(self, run: SpooledRun) -> str | None:
        key = run.info["parent"]
        if key is None:
            return None
        number = self._spool.run_number(key)
        return self._runs.find(key) if number is None else self._run_id(number)


def _unless_small(refused: Refused, size: int) -> None:
    """Raise Unreachable where a request was called too large although it has few characters."""
    if isinstance(refused, RequestTooLarge) and size < _SMALL:
        raise Unreachable(str(refused), answered=True) from None
