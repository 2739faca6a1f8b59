"""The reading side of tracking: what reports, `best_of` and warm starts need to know of finished runs."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from ctxtune.errors import TrackingError
from ctxtune.text import did_you_mean
from ctxtune.tracking.addresses import absolute_uri, redact, sqlite_path
from ctxtune.tracking.connection import connect, sorted_errors
from ctxtune.tracking.duplicates import KEY_TAG, Doubled, dedupe_experiment, without_duplicates
from ctxtune.tracking.errors import Refused, Unreachable

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

SWEEP_KINDS = ("sweep", "ablation")
_PAGE = 1000
_LATEST = 20
"""So many runs may be the latest sweep: a slow server makes one more than once."""
_TOLD = 10
"""So many names stand in a message."""
_BULK_RUNS, _BULK_POINTS = 100, 25_000  # a server's limits for one request for histories


@dataclass(frozen=True)
class TrackedRun:
    """One run as the tracking server knows it."""

    run_id: str
    key: str
    name: str
    kind: str
    state: str  # running, completed, pruned, failed or killed
    reason: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]  # the last value of each
    tags: Mapping[str, str]
    parent: str | None  # run_id of the parent run
    start_time: int  # milliseconds since 1970
    end_time: int | None
    artifact_uri: str = ""


@dataclass(frozen=True)
class MetricPoint:
    """One logged value of a metric."""

    step: int
    value: float
    timestamp: int  # milliseconds since 1970


def find_sweep(uri: str, name: str) -> TrackedRun:
    """The parent run of the sweep or ablation `name`; the latest, if there are several.

    Raises TrackingError if there is none (with the names that come near), or the server cannot be read.
    """
    with reading(uri) as client:
        experiment = client.get_experiment_by_name(name)
        if experiment is not None:
            found = [
                run
                for kind in SWEEP_KINDS
                for run in client.search_runs(
                    [experiment.experiment_id],
                    f"tags.kind = '{kind}'",
                    max_results=_LATEST,
                    order_by=["attributes.start_time DESC"],
                )
            ]
            if found:
                return _tracked(max(without_duplicates(found), key=lambda run: run.info.start_time))
            raise TrackingError(
                f"The experiment {name!r} in {redact(uri)} holds no sweep or ablation: none was begun there, or what it wrote "
                "is not delivered yet (python -m ctxtune.tracking status SPOOL)"
            )
        others = [other.name for other in client.search_experiments(max_results=_PAGE) if other.name != "Default"]
    raise TrackingError(f"No sweep or ablation is named {name!r} in {redact(uri)}{_instead_of(name, others)}")


def read_runs(uri: str, experiment: str, kind: str | None = None) -> list[TrackedRun]:
    """All runs of an experiment in the order of their start, those of one kind if it is given.

    Raises TrackingError if there is no such experiment, or the server cannot be read.
    """
    with reading(uri) as client:
        identifier = _experiment_id(client, uri, experiment)
        filter_ = f"tags.kind = '{kind}'" if kind is not None else ""
        runs = _pages(client, [identifier], filter_, ["attributes.start_time ASC"])
        return [_tracked(run) for run in without_duplicates(runs)]


def metric_history(uri: str, run_id: str, metric: str) -> list[MetricPoint]:
    """Every logged value of one metric of one run, by step. Raises TrackingError."""
    return metric_histories(uri, [run_id], metric)[run_id]


def metric_histories(uri: str, run_ids: Sequence[str], metric: str) -> dict[str, list[MetricPoint]]:
    """Every logged value of one metric of many runs, by run and step; an empty list where it was never logged.

    One request for a hundred runs where the store allows that. Raises TrackingError.
    """
    histories: dict[str, list[MetricPoint]] = {run_id: [] for run_id in run_ids}
    with reading(uri) as client:
        for run_id, point in _history_points(client, list(histories), metric):
            histories[run_id].append(point)
    for points in histories.values():
        points.sort(key=lambda point: (point.step, point.timestamp))
    return histories


def best_runs(
    uri: str,
    sweep: str,
    metric: str,
    mode: Literal["max", "min"],
    count: int,
    kind: str = "trial",
) -> list[TrackedRun]:
    """The best `count` completed trials of a sweep by the last value of a validation metric, the best first.

    Pruned and failed trials have no part, nor have those without a finite value, nor those of an earlier sweep of this
    name. Raises TrackingError if the sweep is not there, ValueError for a metric of the test classes: nothing is ever
    chosen by those.
    """
    if not metric.startswith("validation/"):
        raise ValueError(f"runs are ranked by validation metrics (validation/...), not by {metric!r}")
    parent = find_sweep(uri, sweep).run_id
    runs = [run for run in read_runs(uri, sweep, kind) if run.parent == parent and run.state == "completed"]
    runs = [run for run in runs if math.isfinite(run.metrics.get(metric, math.nan))]
    sign = -1 if mode == "max" else 1
    return sorted(runs, key=lambda run: (sign * run.metrics[metric], run.start_time))[:count]


def read_text(uri: str, run_id: str, artifact_file: str) -> str:
    """The text of one artifact, for example `config.yaml`. Raises TrackingError if it is not there."""
    with reading(uri) as client, TemporaryDirectory() as folder:
        return Path(client.download_artifacts(run_id, artifact_file, folder)).read_text(encoding="utf-8")


def search_tagged(uri: str, tag: str, value: str | None = None) -> list[TrackedRun]:
    """The runs of all experiments, deleted ones included, that carry a tag (with this value). Raises TrackingError."""
    from mlflow.entities import ViewType

    # MLflow's filters have no "tag is there"; every text is like "%".
    filter_ = f"tags.`{tag}` = '{value}'" if value is not None else f"tags.`{tag}` LIKE '%'"
    with reading(uri) as client:
        identifiers = list(_all_experiments(client))
        found = [
            run
            for start in range(0, len(identifiers), _PAGE)
            for run in _pages(client, identifiers[start : start + _PAGE], filter_, [], ViewType.ALL)
        ]
        return [_tracked(run) for run in without_duplicates(found)]


def dedupe(uri: str, experiment: str) -> list[Doubled]:
    """Set aside what a slow server has made twice in an experiment; what that was.

    Raises TrackingError if there is no such experiment, or the server cannot be read or written.
    """
    with reading(uri) as client:
        return dedupe_experiment(client, _experiment_id(client, uri, experiment))


# ---------------------------------------------------------------------- inside


@contextmanager
def reading(uri: str) -> Iterator["MlflowClient"]:
    """A client of the store at `uri`; whatever goes wrong inside becomes a TrackingError without secrets."""
    address = absolute_uri(uri)
    path = sqlite_path(address)
    if path is not None and not path.is_file():
        raise TrackingError(f"The tracking store {path} does not exist: has anything been run yet?")
    try:
        with sorted_errors(address):
            yield _client(address)
    except Unreachable as error:
        raise TrackingError(f"The tracking server {redact(address)} cannot be read: {error}") from None
    except Refused as error:
        raise TrackingError(f"The tracking server {redact(address)} refuses: {error}") from None


@lru_cache(maxsize=4)
def _client(address: str) -> "MlflowClient":
    return connect(address, retries=2, timeout_seconds=60)


def _instead_of(name: str, known: Sequence[str]) -> str:
    """What to say after a name that is not known: those that come near, else up to ten of all."""
    path = Path(name)
    is_path = len(path.parts) > 1 or path.suffix in (".yaml", ".yml")
    hint = "; a name is wanted as MLflow shows it among its experiments, not a path" if is_path else ""
    parts = list(dict.fromkeys((*path.parts, path.stem))) if is_path else [name]
    meant = next((part for part in parts if part in known), parts[-1])
    more = f" and {len(known) - _TOLD} more" if len(known) > _TOLD else ""
    there = f"; there are: {', '.join(sorted(known)[:_TOLD])}{more}" if known else "; there are none yet"
    return hint + did_you_mean(meant, known, most=3, otherwise=there)


def _experiment_id(client: "MlflowClient", uri: str, name: str) -> str:
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        raise TrackingError(f"There is no experiment {name!r} in {redact(uri)}")
    return experiment.experiment_id


def _all_experiments(client: "MlflowClient") -> Iterator[str]:
    """The identifiers of all experiments, deleted ones included."""
    from mlflow.entities import ViewType

    token = None
    while True:
        page = client.search_experiments(view_type=ViewType.ALL, max_results=_PAGE, page_token=token)
        yield from (experiment.experiment_id for experiment in page)
        token = page.token
        if not token:
            return


def _pages(
    client: "MlflowClient", experiments: list[str], filter_: str, order: list[str], view: int = 1
) -> Iterator["Run"]:
    token = None
    while experiments:
        page = client.search_runs(experiments, filter_, view, _PAGE, order, token)
        yield from page
        token = page.token
        if not token:
            return


def _history_points(client: "MlflowClient", run_ids: list[str], metric: str) -> Iterator[tuple[str, MetricPoint]]:
    store = client._tracking_client.store  # the public client has no request for several runs
    for start in range(0, len(run_ids), _BULK_RUNS):
        portion = run_ids[start : start + _BULK_RUNS]
        if hasattr(store, "get_metric_history_bulk"):
            for found in store.get_metric_history_bulk(portion, metric, None):
                yield found.run_id, MetricPoint(found.step, found.value, found.timestamp)
            continue
        points = _history_over_http(store, portion, metric)
        if points is None:
            for run_id in portion:
                for found in client.get_metric_history(run_id, metric):
                    yield run_id, MetricPoint(found.step, found.value, found.timestamp)
        else:
            yield from points


def _history_over_http(store: Any, run_ids: list[str], metric: str) -> list[tuple[str, MetricPoint]] | None:
    """The request with which MLflow's own UI asks for many runs; None where a server lacks it or cuts its answer."""
    from mlflow.utils.rest_utils import http_request

    try:
        response = http_request(
            store.get_host_creds(),
            "/ajax-api/2.0/mlflow/metrics/get-history-bulk",
            "GET",
            params={"run_id": run_ids, "metric_key": metric, "max_results": _BULK_POINTS},
        )
        found = response.json()["metrics"]
    except Exception:  # noqa: BLE001 - whatever it is, asking run by run says it better
        return None
    if len(found) >= _BULK_POINTS:
        return None
    return [
        (point["run_id"], MetricPoint(int(point["step"]), float(point["value"]), int(point["timestamp"])))
        for point in found
    ]


def _tracked(run: "Run") -> TrackedRun:
    tags = run.data.tags
    return TrackedRun(
        run_id=run.info.run_id,
        key=tags.get(KEY_TAG, ""),
        name=run.info.run_name or "",
        kind=tags.get("kind", ""),
        state=tags.get("state", "running"),
        reason=tags.get("reason", ""),
        params=dict(run.data.params),
        metrics=dict(run.data.metrics),
        tags=dict(tags),
        parent=tags.get("mlflow.parentRunId"),
        start_time=run.info.start_time,
        end_time=run.info.end_time,
        artifact_uri=run.info.artifact_uri or "",
    )
