"""The searched dimensions of a search space."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import (
    model_serializer,
    model_validator,
)

from ctxtune.settings import Settings

MOST_CHOICES = 1000
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
    def _write(self) -> dict[str, object]:
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

    def extremes(self) -> tuple[object, ...]:
        """The values at the edge: both bounds, or every choice."""
        return self.choices if self.kind in ("choice", "fixed") else (self._typed(self.low), self._typed(self.high))

    def _typed(self, value: float) -> float | int:
        return int(value) if self.kind in ("int", "logint") else float(value)
