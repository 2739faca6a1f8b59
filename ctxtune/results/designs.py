"""What a sweep or an ablation was asked to do, as results need it: from its settings, or from `space.yaml`, `design.json`.

Files of other versions are read, too: what results have no use for is left out, what is missing has a default.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, model_validator

from ctxtune.results.ranking import Objective
from ctxtune.yaml_text import Tree


class _Read(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class SchedulerDesign(_Read):
    """How trials are stopped early."""

    name: str = "none"
    grace_epochs: int = 1
    reduction_factor: int = 3


class SamplerDesign(_Read):
    """Who suggests the trials."""

    name: str = "tpe"


class ScheduleDesign(_Read):
    """The block `search.schedule`: trials that are shorter than full length."""

    epochs: int


class SearchDesign(_Read):
    """The block `search`; `objective` is always a list here."""

    objective: tuple[Objective, ...] = (Objective(),)
    space: dict[str, Tree] = {}
    conditions: dict[str, str] = {}
    start_from: list[object] = ["trial"]
    schedule: ScheduleDesign | None = None
    sampler: SamplerDesign = SamplerDesign()
    scheduler: SchedulerDesign = SchedulerDesign()
    trials: int = 0

    @model_validator(mode="before")
    @classmethod
    def _listed(cls, tree: object) -> object:
        if isinstance(tree, Mapping) and isinstance(tree.get("objective"), Mapping):
            return {**tree, "objective": [tree["objective"]]}
        return tree


class ConfirmDesign(_Read):
    """The block `confirm`."""

    seeds: int = 0
    train_on: str = "all"


class SweepDesign(_Read):
    """What results need of a sweep's settings."""

    name: str
    trial: Tree
    search: SearchDesign
    validation: Tree = {}
    confirm: ConfirmDesign | None = None
    select: dict[str, object] | None = None

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """What is searched for; the first one ranks."""
        return self.search.objective

    @property
    def objective(self) -> Objective:
        """The first objective."""
        return self.search.objective[0]

    @property
    def epochs(self) -> int:
        """Epochs of a run at full length."""
        return int(self.trial.get("schedule", {}).get("epochs", 0))

    @property
    def train_on(self) -> str:
        """What the models of the confirmation learn from: "all" train classes, or those of "folds"."""
        return self.confirm.train_on if self.confirm else "all"

    @property
    def fold_count(self) -> int:
        """Of the validation."""
        return int(self.validation.get("folds", 0))

    @property
    def search_epochs(self) -> int:
        """Epochs of a trial of the search that runs to its end."""
        return self.search.schedule.epochs if self.search.schedule else self.epochs

    @property
    def own_values(self) -> dict[str, object]:
        """The trial's own values at the searched paths."""
        found: dict[str, object] = {}
        for path in self.search.space:
            value: object = self.trial
            for key in path.split("."):
                value = value.get(key) if isinstance(value, Mapping) else None
            if value is not None:
                found[path] = value
        return found

    @property
    def dataset(self) -> str:
        """The data set's name."""
        return str(self.trial.get("dataset", {}).get("name", ""))

    @property
    def closed_set(self) -> bool:
        """Whether train and test share classes: the scores then say nothing about unseen ones."""
        return bool(self.trial.get("dataset", {}).get("closed_set", False))


class CellDesign(_Read):
    """One arm of an ablation at one combination of factor levels; ``searched``: the paths that its own search varies."""

    cell: str
    variant: str
    levels: Tree = {}
    settings: Tree = {}
    hash: str = ""
    searched: list[str] = []


class ContrastDesign(_Read):
    """A cell and the reference that it is compared with, by name."""

    cell: str
    against: str


class EarlierTuning(_Read):
    """What an earlier sweep or ablation has spent on a variant: its runs, confirmations aside, and their hours."""

    variant: str
    name: str
    runs: int
    hours: float


class AblationDesign(_Read):
    """The design of an ablation: `design.json` of its run in MLflow.

    Attributes:
        metric: that is judged, of the validation or of the test classes.
        equivalence: the largest difference that is practically none, as stated beforehand; None where nothing was.
        probabilities: whether those of an arm being practically better, equal or worse were asked for.
        study: that the file is one of; None: it stands alone.
        folds: that every seed is scored on, "" for all train classes; None in files that were written without.
        tuned_for: the cell whose hyperparameters the others run with, where nothing is tuned.
        trials: of every cell's own search, its own configuration among them; 0 in files that were written without.
        trials_held: how many of them every cell has had, where the budget ended the tuning before; None: all.
        selected: so many of the best trials of every cell were run again before one was chosen; 0: the best trial was.
        selection_seeds, selection_folds: of each of them (of the first repeat's, where the folds are rotated).
        splits: of the train classes into folds, which the repeats have in turn.
        tuned_with: earlier tuning that was spent on the arms, as counted when the ablation began.
        rotated: the folds that the repeats tune on in turn; empty where all tune on the same.
        closed_set: whether train and test share classes: the scores then say nothing about unseen ones.
    """

    name: str
    metric: str
    mode: Literal["max", "min"] = "max"
    correction: str = "holm"
    equivalence: float | None = None
    probabilities: bool = False
    study: str | None = None
    reference: str
    design: str = "grid"
    seeds: int
    repeats: int = 1
    folds: list[str] | None = None
    confirmatory: bool = False
    tuning: Literal["each", "none"] = "none"
    tuned_for: str | None = None
    trials: int = 0
    trials_held: int | None = None
    selected: int = 0
    selection_seeds: int = 0
    selection_folds: list[str] = []
    splits: int = 1
    rotated: list[str] = []
    dataset: str
    tuned_with: list[EarlierTuning] = []
    closed_set: bool = False
    factors: dict[str, list[Any]] = {}
    variants: list[str]
    cells: list[CellDesign]
    contrasts: list[ContrastDesign]

    @property
    def objective(self) -> Objective:
        """What the arms are judged by."""
        return Objective(metric=self.metric, mode=self.mode)

    @property
    def search_objective(self) -> Objective:
        """What each arm's own search improves: the judged score on the validation classes."""
        return Objective(metric=f"validation/{self.metric.partition('/')[2]}", mode=self.mode)

    @property
    def trials_had(self) -> int:
        """Trials that every cell's own search has had in the end."""
        return self.trials if self.trials_held is None else self.trials_held

    def earlier(self, variant: str) -> tuple[int, float]:
        """Runs and hours that were spent on a variant before."""
        own = [each for each in self.tuned_with if each.variant == variant]
        return sum(each.runs for each in own), sum(each.hours for each in own)

    @property
    def nothing_tuned(self) -> bool:
        """Whether the budget ended the tuning before any cell was tried with other values than its own."""
        return self.trials_held is not None and self.trials_held < 2

    @property
    def planned(self) -> int:
        """Replications of each cell: repeats of search and seeds together where there are several, else seeds."""
        return self.repeats if self.repeats > 1 else self.seeds
