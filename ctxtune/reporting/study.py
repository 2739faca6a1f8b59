"""A sweep or an ablation as MLflow knows it: its parent run and the runs below it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from ctxtune.errors import TrackingError
from ctxtune.reporting.background import begin
from ctxtune.results.costs import spent
from ctxtune.results.runs import STAGES, STATES, Run, Stage, in_stage
from ctxtune.text import shortened
from ctxtune.tracking import TrackedRun, find_sweep, read_runs, read_text, redact

Plan = TypeVar("Plan", bound=BaseModel)


@dataclass(frozen=True)
class Study:
    """A sweep or an ablation.

    Attributes:
        uri: of the tracking server.
        parent: its own run; ``parent.kind`` is "sweep" or "ablation".
        tracked: the runs below it, in the order of their start.
    """

    uri: str
    name: str
    parent: TrackedRun
    tracked: tuple[TrackedRun, ...]

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """The runs as results see them."""
        return tuple(run_of(tracked) for tracked in self.tracked if tracked.kind in STAGES)

    def in_stage(self, stage: Stage) -> tuple[Run, ...]:
        """The runs of one stage."""
        return in_stage(self.runs, stage)

    @cached_property
    def by_key(self) -> dict[str, TrackedRun]:
        """What MLflow knows of each run, by the run's key."""
        return {_key(tracked): tracked for tracked in self.tracked}

    @property
    def ended(self) -> bool:
        """Whether no run is to come: it is not under way, and nobody can resume it."""
        return self.parent.state not in ("running", "killed")


def run_of(tracked: TrackedRun) -> Run:
    """A run of MLflow as results see it; its epoch is not known there."""
    tags = tracked.tags
    folds = tags.get("folds", tags.get("fold", ""))
    return Run(
        key=_key(tracked),
        stage=STAGES[tracked.kind],
        arm=tags.get("arm", tags.get("cell", "")),
        state=next((state for state in STATES if state == tracked.state), "running"),
        reason=tracked.reason,
        seed_index=int(tags.get("seed_index") or 0),
        folds=tuple(folds.split(",")) if folds else (),
        repeat=int(tags.get("repeat") or 0),
        number=int(tags.get("trial") or 0),
        metrics=tracked.metrics,
        settings=tracked.params,
    )


def _key(tracked: TrackedRun) -> str:
    return tracked.key.rpartition("/")[2] or tracked.name


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


def read_file(study: Study, artifact: str) -> object:
    """A YAML or JSON artifact of the parent run as plain data.

    Raises:
        TrackingError: it is not there or is not YAML.
    """
    try:
        return yaml.safe_load(read_text(study.uri, study.parent.run_id, artifact))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise TrackingError(f"{study.name}: the artifact {artifact} is no YAML: {shortened(str(error), 300)}") from None
    except TrackingError as error:
        raise TrackingError(
            f"{study.name} in {redact(study.uri)} has no artifact {artifact}, which a report is made from: was it made "
            f"by another version of ctxtune, or is its tracking not delivered yet? ({error})"
        ) from None


def read_design(study: Study, artifact: str, model: type[Plan]) -> Plan:
    """The plan of a study from an artifact of its own run.

    Raises:
        TrackingError: the artifact is not there or not readable.
    """
    try:
        return model.model_validate(read_file(study, artifact))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise TrackingError(f"{study.name}: {artifact}, {place}: {first['msg']}") from None


def bill(runs: Iterable[Run]) -> dict[str, float]:
    """GPU-hours and money of runs, by what a table calls them; of each only where runs have logged it."""
    cost = spent(runs)
    found = {"GPU-hours": cost.gpu_hours or None, "money": cost.money}
    return {title: value for title, value in found.items() if value is not None}


def device_of(study: Study) -> str:
    """What an hour is an hour of: "GPU" or "CPU core"."""
    gpus = study.parent.tags.get("hardware.gpus", "0")
    used = any(name.startswith("gpu/") for run in study.runs for name in run.metrics)
    return "GPU" if used and gpus != "0" else "CPU core"
