"""One run of a sweep or an ablation as results see it, whether it comes from a journal or from MLflow."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, Protocol, get_args

from ctxtune.yaml_text import YamlError, parse_value

Stage = Literal["search", "selection", "confirmation", "cell_search", "cell"]
State = Literal["running", "completed", "pruned", "failed", "killed"]
KINDS: dict[Stage, str] = {
    "search": "trial",
    "selection": "selection",
    "confirmation": "confirmation",
    "cell_search": "cell_search",
    "cell": "cell",
}
"""The `kind` of each stage's runs in MLflow."""
STAGES = {kind: stage for stage, kind in KINDS.items()}
STATES: tuple[State, ...] = get_args(State)
START = "start"
"""The arm of the start configuration in selection and confirmation."""
LOST: tuple[State, ...] = ("failed", "killed")
"""The states of a run that ended without a score."""


@dataclass(frozen=True)
class Run:
    """A run and what it came to.

    Attributes:
        key: its name within the sweep or ablation, such as ``trial-0007``.
        arm: the trial's key, ``start``, or an ablation's cell.
        reason: why it ended, where it did not come to its last epoch.
        seed_index: which repetition; runs of one index share all randomness.
        folds: of validation that it was scored on; none for a run on all train classes.
        repeat, number: of an ablation: which repeat of its search, and which trial of it.
        epoch: the last one that it reported, where that is known.
        metrics: the last value of each.
        settings: its configuration by path, as numbers and texts.
    """

    key: str
    stage: Stage
    arm: str
    state: State
    reason: str = ""
    seed_index: int = 0
    folds: tuple[str, ...] = ()
    repeat: int = 0
    number: int = 0
    epoch: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict, repr=False)

    @property
    def fold(self) -> str:
        """The folds as one text; "" for all train classes."""
        return ",".join(self.folds)

    @property
    def hours(self) -> float:
        """Wall hours of work, as last reported."""
        return (self.last("time/seconds") or 0.0) / 3600

    def last(self, metric: str) -> float | None:
        """The last value of a metric; None where there is none or it is not finite."""
        found = self.metrics.get(metric, math.nan)
        return found if math.isfinite(found) else None

    def setting(self, path: str) -> object:
        """The value of the configuration at a path; None where there is none."""
        found = self.settings.get(path)
        return read_setting(found) if isinstance(found, str) else found


@lru_cache(maxsize=4096)
def read_setting(text: str) -> object:
    """A setting as MLflow holds it. Numbers first: YAML takes `1e-05` for a text, and is slow over thousands of runs."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    try:
        return parse_value(text)
    except YamlError:
        return text


class Measured(Protocol):
    """A run of which the last value of each metric is known: `Run`, or a run of the journal itself."""

    def last(self, metric: str) -> float | None:
        """The last value of a metric; None where there is none."""


def in_stage(runs: Iterable[Run], stage: Stage) -> tuple[Run, ...]:
    """The runs of one stage, in their order."""
    return tuple(run for run in runs if run.stage == stage)


def completed(runs: Iterable[Run]) -> tuple[Run, ...]:
    """The runs that came to their last epoch, in their order."""
    return tuple(run for run in runs if run.state == "completed")


def by_arm(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """The runs of each arm, in their order."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run.arm, []).append(run)
    return found


def by_seed(runs: Iterable[Run], metric: str) -> dict[int, float]:
    """The score of each seed that has one, in the order of the seeds."""
    scored = ((run.seed_index, run.last(metric)) for run in runs)
    return dict(sorted((seed, value) for seed, value in scored if value is not None))


def shared_scores(ours: Mapping[int, float], theirs: Mapping[int, float]) -> tuple[list[float], list[float]]:
    """The scores of two arms over the seeds (or repeats) that both have, in the same order."""
    both = sorted(ours.keys() & theirs.keys())
    return [ours[seed] for seed in both], [theirs[seed] for seed in both]


def score_names(runs: Iterable[Run], split: str) -> list[str]:
    """The scores that runs have of a split ("validation", "test"): Recall@K by K, then MAP@R and the others."""
    found = {name for run in runs for name in run.metrics if name.startswith(f"{split}/")}

    def place(name: str) -> tuple[int, int, str]:
        last = name.rpartition("_")[2]
        if "recall_at_" in name and last.isdigit():
            return 0, int(last), name
        return 1, 0 if name.endswith("map_at_r") else 1, name

    return sorted(found, key=place)


@dataclass(frozen=True)
class LostRuns:
    """The runs of one arm in one stage that failed or were killed.

    Attributes:
        runs: how many the arm has in this stage, the others included.
        which: of each lost one its fold and seed, and why it ended.
    """

    stage: str
    arm: str
    runs: int
    which: tuple[str, ...]


def lost_runs(runs: Sequence[Run], stages: Iterable[Stage]) -> tuple[LostRuns, ...]:
    """What was lost in some stages, by stage and arm."""
    found = []
    for stage in stages:
        for arm, its_runs in by_arm(in_stage(runs, stage)).items():
            lost = tuple(_which(run) for run in its_runs if run.state in LOST)
            found += [LostRuns(stage, arm, len(its_runs), lost)] if lost else []
    return tuple(found)


def _which(run: Run) -> str:
    folds = "".join(f"fold {fold}, " for fold in run.folds)
    reason = run.reason.splitlines()[0] if run.reason else ""
    return f"{folds}seed {run.seed_index} {run.state}" + (f" ({reason})" if reason else "")
