"""The `search` block: what is searched, for which objective, with which sampler, scheduler and budget."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    NonNegativeInt,
    field_validator,
    model_serializer,
    model_validator,
)

from ctxtune.config.budget import BudgetSettings
from ctxtune.config.dimensions import Dimension
from ctxtune.config.expressions import Expression, parse
from ctxtune.config.fidelity import CHANGED_BY, SearchScheduleSettings
from ctxtune.config.trial import MOST_EPOCHS
from ctxtune.settings import Settings
from ctxtune.yaml_text import Tree

_VALIDATION = re.compile(r"validation/(map_at_r|r_precision|recall_at_\d+)")
_COSTS = ("time/seconds", "time/images_per_second", "gpu/memory_gib", "cost/gpu_hours", "cost/money")
_TRIAL_PATH = re.compile(r"[a-z_]+(\.[a-z_0-9]+)+")
MOST_TRIALS = 1_000_000
MOST_SEEDS = 1000


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
    def _read_list(cls, value: object) -> object:
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
    def _write(self) -> object:
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
    start_from: tuple[str | WarmStart | Tree, ...] = ("trial",)
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
