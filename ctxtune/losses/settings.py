"""The settings blocks `loss` and `regularizer` of the YAML tree."""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ConfigDict, Field, model_validator

from ctxtune.losses.loss_settings import ContextualTermSettings, MemorySettings, NoiseFilterSettings
from ctxtune.losses.miners import MINERS
from ctxtune.losses.registry import LossEntry, loss_entry
from ctxtune.settings import Settings, refuse
from ctxtune.text import did_you_mean, shortened
from ctxtune.yaml_text import Tree

_COMMON = ("miner", "contextual", "memory", "noise_filter")


class RegularizerSettings(Settings):
    """The similarity regularizer that the trainer adds to any loss: weight * (target - mean similarity)^2."""

    weight: float = Field(0.0, ge=0.0)
    similarity_target: float = Field(0.3, ge=-1.0, le=1.0)


class _Resolved(Settings):
    """A block that names what it chooses; the options of that choice become its fields, defaults filled in."""

    model_config = ConfigDict(extra="allow")

    def options(self) -> Tree:
        """The options of the chosen thing, without the fields that every choice has."""
        return dict(self.__pydantic_extra__ or {})


class MinerSettings(_Resolved):
    """Which pairs or triplets a loss sees: a miner of pytorch-metric-learning by `name`, and its options."""

    name: str

    @model_validator(mode="before")
    @classmethod
    def _resolve(cls, data: Any) -> Any:
        if isinstance(data, str):
            data = {"name": data}
        if not isinstance(data, Mapping):
            return data
        name = str(data.get("name"))
        if name not in MINERS:
            refuse(cls, ("name",), f"unknown miner: {name!r}{did_you_mean(name, MINERS)}")
        given = {key: value for key, value in data.items() if key != "name"}
        return {"name": name, **_validated(cls, MINERS[name].options, given, f"miner {name}")}


class LossSettings(_Resolved):
    """The YAML block `loss`: a loss by `name`, the options of that loss, and what it is combined with.

    `model_dump()` is plain data in which every option has its value. `miner: null` takes away the miner that some
    losses have by default.
    """

    name: str = "contextual"
    miner: MinerSettings | None = None
    contextual: ContextualTermSettings | None = None
    memory: MemorySettings | None = None
    noise_filter: NoiseFilterSettings | None = None

    @model_validator(mode="before")
    @classmethod
    def _resolve(cls, data: object) -> object:
        if isinstance(data, LossSettings) or not isinstance(data, Mapping):
            return data
        name = data.get("name", "contextual")
        if not isinstance(name, str):
            refuse(cls, ("name",), f"unknown loss: {shortened(repr(name))}; expected the name of a loss")
        common = {key: data[key] for key in _COMMON if key in data}
        given = {key: value for key, value in data.items() if key != "name" and key not in common}
        try:
            entry = loss_entry(name)
        except ValueError as error:
            refuse(cls, ("name",), str(error))
        common.setdefault("miner", entry.miner)
        _check_combination(cls, name, entry, common)
        return {"name": name, **_validated(cls, entry.options, given, f"loss {name}", tuple(common)), **common}


def _check_combination(cls: type[Settings], name: str, entry: LossEntry, common: Mapping[str, object]) -> None:
    if common["miner"] is not None and not entry.takes_miner:
        refuse(cls, ("miner",), f"loss {name} ranks whole batches and takes no miner")
    if common.get("contextual") is not None and name == "contextual":
        refuse(cls, ("contextual",), "loss contextual has the contextual term already: set contextual_weight")


def _validated(
    cls: type[Settings], options: type[Settings], given: Mapping[str, object], owner: str, others: Iterable[str] = ()
) -> dict[str, object]:
    """`given` checked against `options`, its defaults filled in; errors name the key, with a "did you mean"."""
    allowed = list(options.model_fields)
    open_ended = options.model_config.get("extra") == "allow"
    wrong = [key for key in given if key not in allowed and not open_ended]
    if wrong:
        hint = did_you_mean(wrong[0], [*allowed, *others])
        refuse(cls, (wrong[0],), f"unknown option of {owner}: {wrong[0]!r}{hint}")
    return options.model_validate(dict(given)).model_dump()
