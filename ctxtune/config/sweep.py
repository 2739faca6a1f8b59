"""A whole search-space file, and its blocks beside `trial` and `search`."""

import re
from collections.abc import Sequence
from typing import Literal

from pydantic import (
    BaseModel,
    Field,
    NonNegativeInt,
    PositiveFloat,
    ValidationError,
    field_serializer,
    field_validator,
    model_validator,
)

from ctxtune.config.fidelity import shortened
from ctxtune.config.objectives import check_measured
from ctxtune.config.search import SearchSettings
from ctxtune.config.trial import TrialSettings
from ctxtune.data.settings import ValidationSettings
from ctxtune.error_messages import in_words
from ctxtune.redaction import redact, split_uri
from ctxtune.settings import Settings, refuse

MOST_SEEDS = 1000
MOST_SHOWN_QUERIES = 40
"""Pictures of one arm's queries travel as one report of its run."""
LONGEST_NAME = 100
"""Of a sweep: folders, files and experiments are called so, with something before and after it."""


class SelectSettings(Settings):
    """The `select` block: the best full-length trials, scored again on validation with fresh seeds."""

    top: int = Field(5, ge=1, le=MOST_SEEDS)
    folds: Literal["all"] | tuple[NonNegativeInt, ...] = "all"
    seeds: int = Field(2, ge=1, le=MOST_SEEDS)

    def folds_among(self, validation: ValidationSettings) -> tuple[int, ...]:
        """The folds as numbers."""
        return tuple(range(validation.count)) if self.folds == "all" else self.folds


def check_folds(
    model: type[BaseModel], location: tuple[str, ...], folds: Sequence[int], validation: ValidationSettings
) -> None:
    """Refuse folds that the validation scheme does not have, or has once and are named twice."""
    try:
        validation.model_validate({**validation.model_dump(), "use": folds})
    except ValidationError as error:
        refuse(model, location, in_words(error.errors()).removeprefix("use "))


class ConfirmSettings(Settings):
    """The `confirm` block: the chosen configuration, and others beside it, over fresh seeds; test scored once a run."""

    seeds: int = Field(5, ge=2, le=MOST_SEEDS, description="two at least, for an interval")
    also: tuple[Literal["start"], ...] = ("start",)
    train_on: Literal["all", "folds"] = Field(
        "all",
        description="all: one model on all train classes; folds: a model for each fold, on the classes of the others, "
        "and the test scored by their concatenated embeddings",
    )
    shown_queries: int = Field(
        12, ge=0, le=MOST_SHOWN_QUERIES, description="test queries whose nearest images the report shows; 0: none"
    )


LEAST_SHARE = 0.0001
"""Of a core or a GPU."""


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
            if value != "auto" and 0 < value < LEAST_SHARE:
                raise ValueError(
                    f"{key} must be auto, 0 or at least {LEAST_SHARE}, the least that Ray counts; found {value}"
                )
        return self


class TrackingSettings(Settings):
    """The `tracking` block."""

    uri: str = "sqlite:///mlflow.db"
    optuna: str | None = Field(
        None,
        description="of a sweep: an Optuna storage to keep in step, as sqlite:///optuna.db, for optuna-dashboard",
    )

    @field_validator("optuna")
    @classmethod
    def _is_database(cls, optuna: str | None) -> str | None:
        if optuna is not None and not re.match(r"[A-Za-z][A-Za-z0-9+_.-]*://.", optuna):
            raise ValueError("expected the address of a database, such as sqlite:///optuna.db")
        return optuna

    @model_validator(mode="after")
    def _two_databases(self) -> "TrackingSettings":
        if self.optuna is not None and self.optuna == self.uri:
            raise ValueError("optuna and uri name the same database: Optuna and MLflow need one each")
        return self

    @field_serializer("uri", "optuna")
    def _without_secrets(self, uri: str | None) -> str | None:
        # Whatever is written down (results folder, best.yaml, MLflow) holds no password; who goes on gives it again.
        return None if uri is None else redact(uri)


class NotifySettings(Settings):
    """The `notify` block: who is told when a sweep, an ablation or a run ends, or fails.

    It is written down nowhere: addresses of chat services hold a secret in their path.
    """

    url: str | None = Field(None, description="gets a POST with JSON; its key `text` is what chat services show")
    command: str | None = Field(None, description="for the shell; the same JSON on its standard input")
    only_failures: bool = False

    @field_validator("url")
    @classmethod
    def _is_address(cls, url: str | None) -> str | None:
        parts = split_uri(url) if url is not None else None
        if url is not None and (parts is None or parts.scheme not in ("http", "https") or not parts.hostname):
            raise ValueError("expected an address that begins with https:// or http://")
        return url

    @field_validator("command")
    @classmethod
    def _says_something(cls, command: str | None) -> str | None:
        if command is not None and not command.strip():
            raise ValueError("expected a command for the shell; found nothing")
        return command

    @model_validator(mode="after")
    def _somebody(self) -> "NotifySettings":
        if self.url is None and self.command is None:
            raise ValueError("expected url, command or both")
        return self

    @property
    def places(self) -> str:
        """Who is told, in words without a secret."""
        url = redact(self.url) if self.url else ""
        host = "/".join(url.split("/")[:3])
        return " and ".join([*([f"a POST to {host}"] if url else []), *(["a command"] if self.command else [])])


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
    notify: NotifySettings | None = Field(None, exclude=True)

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
    def _select_folds(self) -> "SweepConfig":
        if self.select is not None and self.select.folds != "all":
            check_folds(type(self), ("select", "folds"), self.select.folds, self.validation)
        return self

    @model_validator(mode="after")
    def _confirm_folds(self) -> "SweepConfig":
        if len(self.confirmed_folds) == 1:
            raise ValueError(
                f"confirm.train_on: folds needs several folds, and validation.scheme {self.validation.scheme} has one; take "
                "class_folds or super_class_folds, or train_on: all"
            )
        return self

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

    @property
    def confirmed_folds(self) -> tuple[int, ...]:
        """The folds that a confirmation trains a model each for; none: it trains one on all train classes."""
        by_fold = self.confirm is not None and self.confirm.train_on == "folds"
        return tuple(range(self.validation.count)) if by_fold else ()

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
