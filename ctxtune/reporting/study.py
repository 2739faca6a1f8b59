"""A sweep or an ablation as MLflow knows it: its parent run and the runs below it."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import yaml

from ctxtune.errors import TrackingError
from ctxtune.reporting.background import begin
from ctxtune.tracking import TrackedRun, find_sweep, read_runs, read_text, redact


@dataclass(frozen=True)
class Study:
    """A sweep or an ablation.

    Attributes:
        uri: of the tracking server.
        parent: its own run; ``parent.kind`` is "sweep" or "ablation".
        runs: the runs below it, in the order of their start.
    """

    uri: str
    name: str
    parent: TrackedRun
    runs: tuple[TrackedRun, ...]

    def of_kind(self, kind: str) -> list[TrackedRun]:
        """The runs of one kind: trial, selection, confirmation, cell, cell_search."""
        return [run for run in self.runs if run.kind == kind]


def read_study(uri: str, name: str) -> Study:
    """Read a sweep or ablation by its name.

    Raises:
        TrackingError: there is none of this name (with the names that come near), or the server cannot be read.
    """
    return begin_reading(uri, name, 1)()


def begin_reading(uri: str, name: str, processes: int) -> Callable[[], Study]:
    """As `read_study`; with two processes the runs are read while the caller goes on, until it asks for the study."""
    runs = begin(partial(read_runs, uri, name), processes)

    def study() -> Study:
        parent = find_sweep(uri, name)
        return Study(uri, name, parent, tuple(run for run in runs() if run.parent == parent.run_id))

    return study


def read_file(study: Study, artifact: str) -> Any:
    """A YAML or JSON artifact of the parent run as plain data.

    Raises:
        TrackingError: it is not there or is not YAML.
    """
    try:
        return yaml.safe_load(read_text(study.uri, study.parent.run_id, artifact))
    except yaml.YAMLError as error:
        raise TrackingError(f"{study.name}: the artifact {artifact} is no YAML: {error}") from None
    except TrackingError as error:
        raise TrackingError(
            f"{study.name} in {redact(study.uri)} has no artifact {artifact}, which a report is made from: was it made "
            f"by another version of ctxtune, or is its tracking not delivered yet? ({error})"
        ) from None


def hours(runs: Iterable[TrackedRun]) -> float:
    """Hours of one device (GPU or CPU core) that runs have used, by `time/seconds`."""
    return sum(seconds for run in runs if math.isfinite(seconds := run.metrics.get("time/seconds", 0.0))) / 3600


def bill(runs: Iterable[TrackedRun]) -> dict[str, float]:
    """GPU-hours and money of runs, by what a table calls them; of each only where runs have logged it."""
    found: dict[str, float] = {}
    for run in runs:
        for metric, title in (("cost/gpu_hours", "GPU-hours"), ("cost/money", "money")):
            value = run.metrics.get(metric, math.nan)
            if math.isfinite(value):
                found[title] = found.get(title, 0.0) + value
    return found


def device_of(study: Study) -> str:
    """What an hour is an hour of: "GPU" or "CPU core"."""
    gpus = study.parent.tags.get("hardware.gpus", "0")
    used = any(name.startswith("gpu/") for run in study.runs for name in run.metrics)
    return "GPU" if used and gpus != "0" else "CPU core"


def score_names(runs: Iterable[TrackedRun], part: str) -> list[str]:
    """The scores that runs have of a part ("validation", "test"): Recall@K by K, then MAP@R and R-precision."""
    found = {name for run in runs for name in run.metrics if name.startswith(f"{part}/")}

    def place(name: str) -> tuple[int, int]:
        last = name.rpartition("_")[2]
        return (0, int(last)) if "recall_at_" in name and last.isdigit() else (1, 0 if name.endswith("map_at_r") else 1)

    return sorted(found, key=place)
