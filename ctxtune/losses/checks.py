"""Checks of numbers and batches that every loss shares."""

import math
from numbers import Real


def check_number(name: str, value: object, *, minimum: float = -math.inf, maximum: float = math.inf) -> float:
    """Return `value` as a float, or raise ValueError where it is no finite number in [minimum, maximum]."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, not {value!r}")
    number = float(value)
    if not minimum <= number <= maximum:
        allowed = f"in [{minimum:g}, {maximum:g}]" if maximum < math.inf else f"at least {minimum:g}"
        raise ValueError(f"{name} must be {allowed}, not {value!r}")
    return number


def check_positive(name: str, value: object) -> float:
    """Return `value` as a float, or raise ValueError where it is no finite number above 0."""
    number = check_number(name, value, minimum=0.0)
    if number == 0.0:
        raise ValueError(f"{name} must be above 0, not {value!r}")
    return number


def check_not_empty(count: int) -> None:
    """Raise ValueError where a batch has no embeddings."""
    if count == 0:
        raise ValueError("the batch is empty")
