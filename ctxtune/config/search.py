"""The blocks above the trial: what is searched, how, and with what; together a search-space file."""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_serializer,
    field_validator,
    model_serializer,
    model_validator,
)

from ctxtune.config.expressions import Expression, parse
from ctxtune.config.fidelity import CHANGED_BY, SearchScheduleSettings, shortened
from ctxtune.config.objectives import check_measured
from ctxtune.config.trial import MOST_EPOCHS, TrialSettings
from ctxtune.data.settings import ValidationSettings
from ctxtune.error_messages import in_words
from ctxtune.redaction import redact
from ctxtune.settings import Settings, refuse

_VALIDATION = re.compile(r"validation/(map_at_r|r_precision|recall_at_\d+)")
_COSTS = ("time/seconds", "time/images_per_second", "gpu/memory_gib", "cost/gpu_hours", "cost/money")
_TRIAL_PATH = re.compile(r"[a-z_]+(\.[a-z_0-9]+)+")
MOST_CHOICES = 1000
MOST_TRIALS = 1_000_000
MOST_SEEDS = 1000
MOST_SHOWN_QUERIES = 40
"""Pictures of one arm's queries travel as one report of its run."""
LONGEST_NAME = 100
"""Of a sweep: folders, files and experiments are called so, with something before and after it."""
LARGEST_BOUND = 2.0**53
"""Up to here floating point holds every whole number."""
_KINDS = ("uniform", "loguniform", "quniform", "int", "logint", "choice", "fixed")


class Dimension(Settings):
    """One searched dimension, written as ``{kind: arguments}``.

    ``uniform: [low, high]``, ``loguniform: [low, high]``, ``quniform: [low, high, step]``, ``int: [low, high]`` or
    ``[low, high, step]``, ``logint: [low, high]``, ``choice: [a, b, ...]``, ``fixed: value``. Bounds are inclusive.
    """

    kind: Literal["uniform", "loguniform", "quniform", "int", "logint", "choice", "fixed"]
    low: float | int = 0
    high: float | int = 0
    step: float | int | None = None
    choices: tuple[bool | int | float | str | None, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        if not isinstance(value, Mapping) or len(value) != 1 or next(iter(value)) not in _KINDS:
            raise ValueError(
                f"expected one of {', '.join(_KINDS)}, for example {{uniform: [0.5, 1.0]}}; found {value!r}"
            )
        kind, arguments = next(iter(value.items()))
        if kind == "fixed":
            return {"kind": kind, "choices": (arguments,)}
        if not isinstance(arguments, (list, tuple)) or not arguments:
            raise ValueError(f"{kind} takes a list, for example {{{kind}: [1, 2]}}; found {arguments!r}")
        if kind == "choice":
            return {"kind": kind, "choices": tuple(arguments)}
        most = 3 if kind in ("quniform", "int") else 2
        numbers = [number for number in arguments if isinstance(number, (int, float)) and not isinstance(number, bool)]
        if len(numbers) != len(arguments) or not 2 <= len(numbers) <= most or (kind == "quniform" and len(numbers) < 3):
            shape = {"quniform": "[low, high, step]", "int": "[low, high] or [low, high, step]"}.get(
                kind, "[low, high]"
            )
            raise ValueError(f"{kind} takes {shape}, numbers all; found {list(arguments)!r}")
        return dict(zip(("low", "high", "step"), numbers, strict=False)) | {"kind": kind}

    @model_validator(mode="after")
    def _sound(self) -> "Dimension":
        if self.kind in ("choice", "fixed"):
            if len({(type(choice), choice) for choice in self.choices}) < len(self.choices):
                raise ValueError(f"a choice stands twice in {list(self.choices)!r}")
            if len(self.choices) > MOST_CHOICES:
                raise ValueError(f"{len(self.choices):,} choices are too many; {MOST_CHOICES} at most")
            return self
        if not (math.isfinite(self.low) and math.isfinite(self.high)) or self.low >= self.high:
            raise ValueError(f"the lower bound must be below the upper one; found [{self.low}, {self.high}]")
        if max(abs(self.low), abs(self.high)) > LARGEST_BOUND:
            raise ValueError(f"bounds lie within {LARGEST_BOUND:g}; found [{self.low}, {self.high}]")
        if self.kind in ("loguniform", "logint") and self.low <= 0:
            raise ValueError(f"{self.kind} needs bounds above 0; found {self.low}")
        if self.kind in ("int", "logint") and any(
            number != int(number) for number in (self.low, self.high, self.step or 1)
        ):
            raise ValueError(f"{self.kind} needs whole numbers; found [{self.low}, {self.high}]")
        if self.step is not None and self.step <= 0:
            raise ValueError(f"the step must be above 0; found {self.step}")
        if self.step is not None and (self.high - self.low) / self.step > LARGEST_BOUND:
            raise ValueError(f"the step {self.step} is too small for [{self.low}, {self.high}]")
        return self

    @model_serializer
    def _write(self) -> dict[str, Any]:
        if self.kind == "fixed":
            return {"fixed": self.choices[0]}
        if self.kind == "choice":
            return {"choice": list(self.choices)}
        return {self.kind: [self.low, self.high] + ([] if self.step is None else [self.step])}

    def contains(self, value: Any) -> bool:
        """Whether ``value`` lies within the bounds, or is one of the choices."""
        if self.kind in ("choice", "fixed"):
            return value in self.choices
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        whole = self.kind not in ("int", "logint") or value == int(value)
        return whole and self.low <= value <= self.high

    def count(self) -> int | None:
        """How many values there are; None where the dimension is continuous."""
        if self.kind in ("choice", "fixed"):
            return len(self.choices)
        if self.kind in ("uniform", "loguniform"):
            return None
        return int((self.high - self.low) / (self.step or 1) + 1e-9) + 1

    def value(self, index: int) -> Any:
        """One of the `count` values, by its number from 0 on."""
        if self.kind in ("choice", "fixed"):
            return self.choices[index]
        return self._typed(self.low + index * (self.step or 1))

    def values(self) -> Iterator[Any]:
        """All values, of a dimension that has a `count`."""
        return map(self.value, range(self.count() or 0))

    def extremes(self) -> tuple[Any, ...]:
        """The values at the edge: both bounds, or every choice."""
        return self.choices if self.kind in ("choice", "fixed") else (self._typed(self.low), self._typed(self.high))

    def _typed(self, value: float) -> float | int:
        return int(value) if self.kind in ("int", "logint") else float(value)


class FurtherObjective(Settings):
    """An objective beside the first one: another score, what a run costs, or a number of the configuration itself."""

    metric: str
    mode: Literal["max", "min"] = "max"

    @field_validator("metric")
    @classmethod
    def _known(cls, metric: str) -> str:
        if not _VALIDATION.fullmatch(metric) and metric not in _COSTS and not _TRIAL_PATH.fullmatch(metric):
            raise ValueError(
                f"{metric!r} cannot be searched for; use a validation score, {', '.join(_COSTS)}, or the path of a number "
                "in the trial, such as model.embedding_dim"
            )
        return metric


class ObjectiveSettings(Settings):
    """The `objective` block: the validation metric that the search improves; as a list, several objectives at once.

    The first one is the score that selection and confirmation choose by. ``beside`` holds the others.
    """

    metric: str = "validation/map_at_r"
    mode: Literal["max", "min"] = "max"
    beside: tuple[FurtherObjective, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _read_list(cls, value: Any) -> Any:
        if not isinstance(value, (list, tuple)):
            return value
        if not value or not all(isinstance(item, Mapping) for item in value):
            raise ValueError("a list of objectives holds blocks such as {metric: validation/map_at_r, mode: max}")
        return {**value[0], "beside": tuple(value[1:])}

    @model_validator(mode="after")
    def _different(self) -> "ObjectiveSettings":
        metrics = [objective.metric for objective in self.all]
        if len(set(metrics)) < len(metrics):
            raise ValueError(f"an objective stands twice: {', '.join(metrics)}")
        return self

    @model_serializer
    def _write(self) -> Any:
        blocks = [{"metric": objective.metric, "mode": objective.mode} for objective in self.all]
        return blocks if self.beside else blocks[0]

    @property
    def all(self) -> "tuple[ObjectiveSettings | FurtherObjective, ...]":
        """Every objective, the first one first."""
        return (self, *self.beside)

    @field_validator("metric")
    @classmethod
    def _validation_only(cls, metric: str) -> str:
        if not _VALIDATION.fullmatch(metric):
            raise ValueError(
                f"{metric!r} cannot be searched for; use validation/map_at_r, validation/r_precision or "
                "validation/recall_at_K (test scores are for confirmation only)"
            )
        return metric


class SearchSamplerSettings(Settings):
    """The `search.sampler` block: who suggests the next configuration."""

    name: Literal["tpe", "random", "grid", "gp", "cma-es", "nsga-ii"] = "tpe"
    seed: NonNegativeInt = 0
    startup_trials: int = Field(
        10, ge=1, le=MOST_TRIALS, description="random ones before tpe or gp learn; of nsga-ii the size of a generation"
    )


class SchedulerSettings(Settings):
    """The `search.scheduler` block: who stops poor trials early."""

    name: Literal["asha", "hyperband", "median", "none"] = "asha"
    grace_epochs: int = Field(
        10, ge=1, le=MOST_EPOCHS, description="no trial is stopped before; counted after head warm-up"
    )
    reduction_factor: int = Field(3, ge=2, le=1000, description="one in so many goes on at each rung")


class BudgetSettings(Settings):
    """The `search.budget` block; whichever limit is met first ends the search, cleanly."""

    hours: PositiveFloat | None = Field(None, description="wall time of the whole sweep, confirmation included")
    gpu_hours: PositiveFloat | None = None
    search_share: float = Field(
        0.6,
        gt=0,
        le=0.9,
        description="of the hours or GPU-hours: the least that the search gets before selection begins",
    )
    no_improvement_for: PositiveInt | None = Field(None, description="trials without a better score")


class WarmStart(Settings):
    """An item of `search.start_from`: the best completed trials of an earlier sweep, by validation, from MLflow."""

    best_of: str
    count: int = Field(1, ge=1, le=MOST_SEEDS)


class SearchSettings(Settings):
    """The `search` block."""

    objective: ObjectiveSettings = ObjectiveSettings()
    space: dict[str, Dimension]
    constraints: tuple[str, ...] = ()
    conditions: dict[str, str] = {}
    ties: dict[str, str] = {}
    start_from: tuple[str | WarmStart | dict[str, Any], ...] = ("trial",)
    sampler: SearchSamplerSettings = SearchSamplerSettings()
    scheduler: SchedulerSettings = SchedulerSettings()
    trials: int = Field(64, ge=1, le=MOST_TRIALS)
    max_concurrent: Literal["auto"] | Annotated[int, Field(ge=1, le=MOST_TRIALS)] = "auto"
    budget: BudgetSettings = BudgetSettings()
    schedule: SearchScheduleSettings | None = Field(None, description="a shorter schedule for the trials of the search")
    images: float | None = Field(None, gt=0, lt=1, description="share of the training classes that a trial learns from")
    crop: int | None = Field(None, ge=8, description="training crop of a trial, in pixels")

    @field_validator("space", mode="before")
    @classmethod
    def _drop_removed(cls, space: Any) -> Any:
        # `--set search.space.loss.k=null` takes a dimension out of the search.
        return {path: item for path, item in space.items() if item is not None} if isinstance(space, dict) else space

    @field_validator("constraints", "conditions")
    @classmethod
    def _expressions(cls, value: Any) -> Any:
        for text in value.values() if isinstance(value, dict) else value:
            parse(text)
        return value

    @model_validator(mode="after")
    def _sound(self) -> "SearchSettings":
        if not self.space:
            raise ValueError("search.space is empty; name at least one dimension to search")
        for path in self.conditions:
            if path not in self.space:
                raise ValueError(f"conditions.{path}: no such dimension in search.space")
        _check_sampler(self)
        _check_objectives(self)
        _check_fidelity(self)
        return self

    def parsed_constraints(self) -> tuple[Expression, ...]:
        """The constraints, ready to call."""
        return tuple(parse(text) for text in self.constraints)

    def parsed_conditions(self) -> dict[str, Expression]:
        """The condition of each conditional dimension, ready to call."""
        return {path: parse(text) for path, text in self.conditions.items()}


def _check_sampler(search: SearchSettings) -> None:
    if search.sampler.name == "grid":
        open_ended = [p for p, d in search.space.items() if d.kind in ("uniform", "loguniform")]
        if open_ended:
            raise ValueError(
                f"sampler grid needs finite dimensions, but {', '.join(open_ended)} is continuous; "
                "write it as choice, int or quniform, or take sampler random"
            )
    if search.sampler.name in ("cma-es", "gp") and search.conditions:
        raise ValueError(f"sampler {search.sampler.name} cannot search conditional dimensions; take sampler tpe")
    if search.sampler.name == "cma-es":
        categorical = [p for p, d in search.space.items() if d.kind == "choice"]
        if categorical:
            raise ValueError(f"sampler cma-es cannot search the choices of {', '.join(categorical)}; take sampler tpe")


def _check_fidelity(search: SearchSettings) -> None:
    settings = {"schedule": search.schedule, "images": search.images, "crop": search.crop}
    for key, setting in settings.items():
        searched = [path for path in search.space if path.startswith(CHANGED_BY[key])]
        searched = [path for path in searched if path not in ("schedule.factor", "schedule.name")]
        if setting is not None and searched:
            raise ValueError(f"search.{key} changes {searched[0]} in every trial; it cannot be searched beside it")


def _check_objectives(search: SearchSettings) -> None:
    count, sampler, scheduler = len(search.objective.all), search.sampler.name, search.scheduler.name
    if count == 1 and sampler == "nsga-ii":
        raise ValueError(
            "sampler nsga-ii is for several objectives; write `objective` as a list, such as [{metric: validation/map_at_r}, "
            "{metric: time/seconds, mode: min}], or take sampler tpe"
        )
    if count > 1 and sampler in ("gp", "cma-es"):
        raise ValueError(
            f"sampler {sampler} searches for one objective, not {count}; take nsga-ii, tpe, random or grid"
        )
    if count > 1 and scheduler != "none":
        raise ValueError(
            f"scheduler {scheduler} stops trials by one score and cannot weigh {count} objectives; take scheduler none"
        )
    if sampler == "nsga-ii" and search.sampler.startup_trials < 2:
        raise ValueError("sampler nsga-ii needs two trials in a generation at least (sampler.startup_trials)")


class SelectSettings(Settings):
    """The `select` block: the best full-length trials, scored again on validation with fresh seeds."""

    top: int = Field(5, ge=1, le=MOST_SEEDS)
    folds: Literal["all"] | tuple[NonNegativeInt, ...] = "all"
    seeds: int = Field(2, ge=1, le=MOST_SEEDS)


class ConfirmSettings(Settings):
    """The `confirm` block: the chosen configuration, and others beside it, on all train classes; test scored once."""

    seeds: int = Field(5, ge=2, le=MOST_SEEDS, description="two at least, for an interval")
    also: tuple[Literal["start"], ...] = ("start",)
    shown_queries: int = Field(
        16, ge=0, le=MOST_SHOWN_QUERIES, description="test queries whose nearest images the report shows; 0: none"
    )


class ResourcesSettings(Settings):
    """The `resources` block: what one trial gets; `auto`: one GPU where the cluster has one, else one CPU core."""

    gpus: Literal["auto"] | float = Field("auto")
    cpus: Literal["auto"] | float = Field("auto")
    price_per_gpu_hour: PositiveFloat | None = Field(
        None, description="what an hour of one GPU costs, in any currency; adds money to GPU-hours"
    )

    @model_validator(mode="after")
    def _not_negative(self) -> "ResourcesSettings":
        for key in ("gpus", "cpus"):
            value = getattr(self, key)
            if value != "auto" and value < 0:
                raise ValueError(f"{key} must be auto, 0 or more; found {value}")
        return self


class TrackingSettings(Settings):
    """The `tracking` block."""

    uri: str = "sqlite:///mlflow.db"

    @field_serializer("uri")
    def _without_secrets(self, uri: str) -> str:
        # Whatever is written down (results folder, best.yaml, MLflow) holds no password; who goes on gives it again.
        return redact(uri)


def check_closed_set(model: type[BaseModel], trial: TrialSettings, validation: ValidationSettings) -> None:
    """Refuse a validation that asks another question than the test: on known classes, or on unseen ones."""
    if (validation.scheme == "image_holdout") == trial.dataset.closed_set:
        return
    if trial.dataset.closed_set:
        told = "the data set is closed_set (the test has classes that training knows): take scheme image_holdout"
    else:
        told = "image_holdout validates on classes that training knows: say dataset.closed_set: true if the test does so, too"
    refuse(model, ("validation", "scheme"), told)


class TrialFile(Settings):
    """A file that holds one configuration: `best.yaml`, or a search-space file without its search."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=LONGEST_NAME)
    trial: TrialSettings
    validation: ValidationSettings = ValidationSettings()
    tracking: TrackingSettings = TrackingSettings()
    resources: ResourcesSettings = ResourcesSettings()

    @model_validator(mode="after")
    def _known_classes_on_both_sides_or_none(self) -> "TrialFile":
        check_closed_set(type(self), self.trial, self.validation)
        return self


class SweepConfig(TrialFile):
    """A search-space file."""

    search: SearchSettings
    select: SelectSettings | None = SelectSettings()
    confirm: ConfirmSettings | None = ConfirmSettings()

    @model_validator(mode="after")
    def _objectives(self) -> "SweepConfig":
        check_measured(
            type(self),
            ("search", "objective"),
            [objective.metric for objective in self.search.objective.all],
            self.trial,
            searched=self.search.space,
            gpus=self.resources.gpus,
            price=self.resources.price_per_gpu_hour,
        )
        return self

    @model_validator(mode="after")
    def _gpu_budget(self) -> "SweepConfig":
        if self.search.budget.gpu_hours is not None and self.resources.gpus == 0:
            raise ValueError(
                "search.budget.gpu_hours: no run gets a GPU (resources.gpus is 0); take search.budget.hours"
            )
        return self

    def search_trial(self, trial: TrialSettings) -> TrialSettings:
        """The form in which the search trains a configuration: as it is, or cheaper (`search.schedule`, `images`, `crop`)."""
        search = self.search
        epochs = search.schedule.epochs if search.schedule else None
        return shortened(trial, epochs=epochs, images=search.images, crop=search.crop)

    @property
    def search_epochs(self) -> int:
        """Epochs of a trial that runs to its end."""
        return self.search.schedule.epochs if self.search.schedule else self.trial.schedule.epochs

    @model_validator(mode="after")
    def _fidelity(self) -> "SweepConfig":
        if self.search.schedule and self.search.schedule.epochs > self.trial.schedule.epochs:
            raise ValueError(
                f"search.schedule.epochs ({self.search.schedule.epochs}) is above the {self.trial.schedule.epochs} epochs of "
                "a full-length run"
            )
        if self.search.crop and self.search.crop > self.trial.image.train_crop:
            raise ValueError(
                f"search.crop ({self.search.crop}) is above trial.image.train_crop ({self.trial.image.train_crop})"
            )
        try:
            self.search_trial(self.trial)
        except ValidationError as error:
            raise ValueError(
                f"search.schedule, images and crop leave no sound trial: {in_words(error.errors())}"
            ) from None
        return self

    @model_validator(mode="after")
    def _rungs(self) -> "SweepConfig":
        shortened_base = self.search_trial(self.trial)
        scheduler, every, epochs = self.search.scheduler, shortened_base.evaluation.every, self.search_epochs
        if scheduler.name == "none":
            return self
        if scheduler.grace_epochs % every:
            raise ValueError(
                f"search.scheduler.grace_epochs ({scheduler.grace_epochs}) must be a multiple of "
                f"trial.evaluation.every ({every}{', scaled by search.schedule' if self.search.schedule else ''}): a rung "
                "needs a score"
            )
        swept = [path for path in self.search.space if path.startswith(("schedule.", "evaluation."))]
        swept = [path for path in swept if path not in ("schedule.factor", "schedule.name")]
        if swept:
            raise ValueError(
                f"search.space.{swept[0]} cannot be swept with scheduler {scheduler.name}: trials of different "
                "length are not comparable at a rung; take scheduler none"
            )
        if scheduler.grace_epochs > epochs:
            raise ValueError(f"search.scheduler.grace_epochs ({scheduler.grace_epochs}) is above the {epochs} epochs")
        return self
