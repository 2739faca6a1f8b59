"""An ablation file: which configurations are compared, over which seeds, and how each is tuned before."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, field_validator, model_validator

from ctxtune.config.budget import LimitSettings
from ctxtune.config.dimensions import Dimension
from ctxtune.config.expressions import parse
from ctxtune.config.objectives import check_measured
from ctxtune.config.search import ObjectiveSettings
from ctxtune.config.sweep import LONGEST_NAME, MOST_SEEDS, TrialFile, check_folds
from ctxtune.metric_names import on_split
from ctxtune.settings import Settings, refuse
from ctxtune.text import did_you_mean, shortened
from ctxtune.yaml_text import Tree

Design = Literal["grid", "one_factor_at_a_time", "leave_one_out"]
Level = bool | int | float | str | None
FULL = "full"
"""The arm of `leave_one_out` that has every component."""
_NAME = r"[A-Za-z0-9][A-Za-z0-9 _.+-]*"


class BestOf(Settings):
    """`base: {best_of: SWEEP}`: the configuration that a sweep chose, by validation, read from MLflow."""

    best_of: str


class SelectTunedSettings(Settings):
    """The `tune_each.select` block: the best trials of a cell's search, run again with fresh seeds; the best mean is chosen.

    Attributes:
        top: so many trials, by the score of the search.
        seeds: of each.
        folds: that each seed is run on; null: those that the searches score.
    """

    top: int = Field(3, ge=2, le=MOST_SEEDS, description="two at least: of one there is nothing to choose")
    seeds: int = Field(2, ge=1, le=MOST_SEEDS)
    folds: Literal["all"] | tuple[NonNegativeInt, ...] | None = None


class TuneEachSettings(Settings):
    """The `tune_each` block: a search for every cell, all with the same number of trials at full length.

    Attributes:
        trials: of each search; the first is the cell's own configuration, unaltered.
        repeats: how often search and seeds are repeated, with fresh randomness.
        space: the dimensions that every variant searches.
        spaces: by variant: further dimensions, or others in place of those of `space`; null takes one out.
        constraints, conditions, ties: as in a search-space file; those whose paths a variant does not have, do not
            apply to it.
        folds: validation folds that the searches score; null: those of `validation.use`. Other folds than those that
            the seeds are scored on keep the choice and the judgment apart. ``rotate``: each repeat tunes on one fold, in turn
            of those that the seeds are not scored on (of all, where the test classes are, or none is left).
        splits: so many splits of the train classes, with ``validation.seed``, ``validation.seed + 1``, ...; the repeats have
            them in turn, search and seeds alike.
        select: the best trials are scored again before one is chosen; null: the best single trial is chosen.
        sampler: tpe or random.
        startup_trials: random ones before tpe learns.
        seed: of the sampler; the same for every cell.
        budget: hours or GPU-hours of the whole ablation. Seeds keep their number; every cell has as many trials as fit
            in the rest, the same number each.
    """

    trials: int = Field(16, ge=2, le=10_000, description="one is the cell's own configuration: a search needs another")
    repeats: int = Field(1, ge=1, le=MOST_SEEDS)
    space: dict[str, Dimension] = {}
    spaces: dict[str, dict[str, Dimension | None]] = {}
    constraints: tuple[str, ...] = ()
    conditions: dict[str, str] = {}
    ties: dict[str, str] = {}
    folds: Literal["rotate"] | tuple[NonNegativeInt, ...] | None = None
    splits: int = Field(1, ge=1, le=MOST_SEEDS, description="validation splits that the repeats have in turn")
    select: SelectTunedSettings | None = None
    sampler: Literal["tpe", "random"] = "tpe"
    startup_trials: int = Field(5, ge=1, le=10_000)
    seed: NonNegativeInt = 0
    budget: LimitSettings = LimitSettings()

    @field_validator("space", "spaces", mode="before")
    @classmethod
    def _drop_removed(cls, value: Any) -> Any:
        return _without_nulls(value)

    def space_of(self, variant: str) -> dict[str, Dimension]:
        """What the cells of a variant search."""
        merged: dict[str, Dimension | None] = {**self.space, **self.spaces.get(variant, {})}
        return {path: dimension for path, dimension in merged.items() if dimension is not None}


class CompareSettings(ObjectiveSettings):
    """The `compare` block: the score that arms are compared by, and the correction for many comparisons.

    The metric is one of validation; a confirmatory ablation takes the same score of the test classes.
    """

    correction: Literal["holm"] = "holm"
    equivalence: float | None = Field(
        0.005, gt=0, lt=1, description="the largest difference that is practically none; null: equality is not tested"
    )
    wanted_difference: float = Field(
        0.01, gt=0, lt=1, description="the difference that is to be found; a pilot says how many seeds that takes"
    )
    probabilities: bool = Field(
        False, description="also how probable it is that an arm is practically better, equal or worse (Bayesian t-test)"
    )

    @model_validator(mode="after")
    def _margin_stated(self) -> "CompareSettings":
        if self.probabilities and self.equivalence is None:
            message = "a practical difference needs a margin; write equivalence, e.g. 0.005, or probabilities: false"
            refuse(type(self), ("probabilities",), message)
        return self

    def scored_metric(self, *, confirmatory: bool) -> str:
        """The metric that the cells' final scores have in tracking."""
        return on_split(self.metric, "test") if confirmatory else self.metric


class Ablation(TrialFile):
    """An ablation file, its base filled in.

    Attributes:
        based_on: where the trial came from, where it did not stand in the file itself.
        seeds: runs of every cell, and fold; arms with the same index share all randomness. Two at least, but where search
            and seeds are repeated.
        reference: the variant that others are compared with, or a cell by its name; null: the first variant.
        design: ``grid``: every variant at every combination of the factors' levels. ``one_factor_at_a_time``: one
            factor moves, the others keep their first level. ``leave_one_out``: the variants are components; one arm
            has all of them, and each other arm all but one.
        variants: by name, the paths that it changes in the trial.
        factors: by path, its levels.
        study: the study that this file is one of; `report --compare` of its files corrects over all of them.
        tuned_with: by variant, earlier sweeps and ablations in MLflow whose tuning was spent on it; they are counted beside its
            score.
        pilot: by whose deviations `--dry-run` plans: the name of an earlier ablation in MLflow, or a number of seeds, which
            are run for it.
        pilot_of: whose pilot this is; its seeds are none of that ablation's.
    """

    based_on: str | None = None
    seeds: int = Field(5, ge=1, le=MOST_SEEDS)
    reference: str | None = None
    design: Design = "grid"
    variants: dict[str, Tree] = {"base": {}}
    factors: dict[str, tuple[Level, ...]] = {}
    tune_each: TuneEachSettings | None = None
    compare: CompareSettings = CompareSettings()
    confirmatory: bool = False
    study: str | None = Field(None, min_length=1, max_length=LONGEST_NAME)
    tuned_with: dict[str, tuple[str, ...]] = {}
    pilot: int | str | None = None
    pilot_of: str | None = None
    max_concurrent: Literal["auto"] | Annotated[int, Field(ge=1, le=10_000)] = "auto"

    @field_validator("variants", "factors", mode="before")
    @classmethod
    def _drop_removed(cls, value: object) -> object:
        # `--set variants.NAME=null` takes a variant out; a variant that is written without a value changes nothing.
        return _without_nulls(value)

    @field_validator("variants")
    @classmethod
    def _names(cls, variants: dict[str, dict[str, object]]) -> dict[str, dict[str, object]]:
        for name in variants:
            if not re.fullmatch(_NAME, name) or len(name) > LONGEST_NAME:
                raise ValueError(
                    f"{shortened(name)!r} cannot name a variant: letters, digits, spaces and _ . + - only, a letter or digit "
                    f"first, {LONGEST_NAME} at most"
                )
        if not variants:
            raise ValueError("there is no variant; write at least one, such as `full: {}`")
        return variants

    @field_validator("pilot")
    @classmethod
    def _pilot_seeds(cls, pilot: int | str | None) -> int | str | None:
        if isinstance(pilot, int) and (isinstance(pilot, bool) or not 2 <= pilot <= MOST_SEEDS):
            raise ValueError(f"expected the name of an ablation, or 2 to {MOST_SEEDS} seeds; found {pilot!r}")
        return pilot

    @field_validator("factors")
    @classmethod
    def _levels(cls, factors: dict[str, tuple[Level, ...]]) -> dict[str, tuple[Level, ...]]:
        for path, levels in factors.items():
            if len(levels) < 2:
                refuse(cls, (path,), f"a factor needs two levels or more; found {list(levels)!r}")
            if len({(type(level), level) for level in levels}) < len(levels):
                refuse(cls, (path,), f"a level stands twice in {list(levels)!r}")
        return factors

    @model_validator(mode="before")
    @classmethod
    def _forget_removed(cls, data: object) -> object:
        # A variant that is taken out takes its own search space along.
        if isinstance(data, Mapping):
            data = {
                key: value for key, value in data.items() if value is not None or key not in ("variants", "factors")
            }
        if not isinstance(data, Mapping) or not isinstance(data.get("variants"), Mapping):
            return data
        removed = [name for name, settings in data["variants"].items() if settings is None]
        tune = data.get("tune_each")
        if not isinstance(tune, Mapping) or not isinstance(tune.get("spaces"), Mapping):
            return data
        kept = {name: space for name, space in tune["spaces"].items() if name not in removed}
        return {**data, "tune_each": {**tune, "spaces": kept}}

    def arms(self) -> dict[str, Tree]:
        """What each arm changes in the trial: the variants, or what `leave_one_out` makes of them."""
        if self.design != "leave_one_out":
            return self.variants
        return {
            FULL: {path: value for settings in self.variants.values() for path, value in settings.items()},
            **{
                f"without {name}": {
                    path: value
                    for other, settings in self.variants.items()
                    if other != name
                    for path, value in settings.items()
                }
                for name in self.variants
            },
        }

    @model_validator(mode="after")
    def _sound(self) -> "Ablation":
        if self.design == "one_factor_at_a_time" and not self.factors:
            message = "design one_factor_at_a_time moves factors, and there are none; write factors, or design grid"
            refuse(type(self), ("design",), message)
        if self.design == "leave_one_out":
            _check_components(type(self), self.variants)
        if len(self.variants) == 1 and not self.factors and self.design != "leave_one_out":
            raise ValueError("one variant and no factors: there is nothing to compare; write a second variant")
        if self.seeds == 1 and (self.tune_each is None or self.tune_each.repeats == 1):
            message = "one seed compares nothing: differences and intervals need 2 at least; found 1"
            refuse(type(self), ("seeds",), message)
        for name in self.tuned_with:
            if name not in self.arms():
                message = f"there is no such variant{did_you_mean(name, self.arms())}"
                refuse(type(self), ("tuned_with", name), message)
        check_measured(type(self), ("compare",), [self.compare.metric], self.trial)
        _check_tuning(self)
        return self


def _without_nulls(value: object) -> object:
    if not isinstance(value, Mapping):
        return value
    return {key: item for key, item in value.items() if item is not None}


def _check_components(model: type[Settings], variants: Mapping[str, Mapping[str, object]]) -> None:
    if len(variants) < 2:
        refuse(model, ("variants",), "design leave_one_out needs two components or more")
    owners: dict[str, str] = {}
    for name, settings in variants.items():
        if name == FULL:
            refuse(
                model,
                ("variants", name),
                f"under leave_one_out {FULL!r} is the arm with all components; name this component otherwise",
            )
        for path in settings:
            if path in owners:
                message = f"component {owners[path]} sets {path} too; what is left out must be one's own"
                refuse(model, ("variants", name, path), message)
            owners[path] = name


def rotation(ablation: Ablation) -> tuple[int, ...]:
    """The folds that the repeats tune on in turn; none where they do not take turns."""
    if ablation.tune_each is None or ablation.tune_each.folds != "rotate":
        return ()
    every = range(ablation.validation.count)
    unseen = () if ablation.confirmatory else tuple(fold for fold in every if fold not in ablation.validation.use)
    return unseen or tuple(every)


def _check_rotation(ablation: Ablation, tune: TuneEachSettings) -> None:
    if tune.repeats == 1:
        message = "rotate: each repeat tunes on another fold, and there is one repeat; write repeats: 3 or name folds"
        refuse(type(ablation), ("tune_each", "folds"), message)
    if len(folds := rotation(ablation)) == 1:
        message = (
            f"rotate: fold {folds[0]} is the only one to tune on beside validation.use {list(ablation.validation.use)}; "
            "give validation more folds, or use fewer"
        )
        refuse(type(ablation), ("tune_each", "folds"), message)


def _check_tuning(ablation: Ablation) -> None:
    tune = ablation.tune_each
    if tune is None:
        return
    model, arms = type(ablation), ablation.arms()
    for name in tune.spaces:
        if name not in arms:
            refuse(model, ("tune_each", "spaces", name), f"there is no such variant{did_you_mean(name, arms)}")
    if tune.folds == "rotate":
        _check_rotation(ablation, tune)
    elif tune.folds is not None:
        check_folds(model, ("tune_each", "folds"), tune.folds, ablation.validation)
    if tune.select is not None and isinstance(tune.select.folds, tuple):
        check_folds(model, ("tune_each", "select", "folds"), tune.select.folds, ablation.validation)
    if tune.splits > tune.repeats:
        message = (
            f"{tune.repeats} repeats cannot have {tune.splits} splits in turn; write repeats: {tune.splits} or more"
        )
        refuse(model, ("tune_each", "splits"), message)
    for text in (*tune.constraints, *tune.conditions.values()):
        parse(text)
    for name in arms:
        if not tune.space_of(name):
            message = f"variant {name} has nothing to search; give tune_each.space or a space of its own"
            refuse(model, ("tune_each",), message)
