"""The options of the contextual similarity, checked once at construction."""

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal, get_args

Step = Literal["heuristic", "sigmoid"]
Conjunction = Literal["product", "minimum"]
Overlap = Literal["both", "shared", "none"]


def check_number(name: str, value: Any, *, minimum: float = -math.inf, maximum: float = math.inf) -> float:
    """Return `value` as a float, or raise ValueError where it is no finite number in [minimum, maximum]."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, not {value!r}")
    number = float(value)
    if not minimum <= number <= maximum:
        allowed = f"in [{minimum:g}, {maximum:g}]" if maximum < math.inf else f"at least {minimum:g}"
        raise ValueError(f"{name} must be {allowed}, not {value!r}")
    return number


def check_positive(name: str, value: Any) -> float:
    """Return `value` as a float, or raise ValueError where it is no finite number above 0."""
    number = check_number(name, value, minimum=0.0)
    if number == 0.0:
        raise ValueError(f"{name} must be above 0, not {value!r}")
    return number


def check_choice(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    """Raise ValueError where `value` is none of `allowed`."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")


@dataclass(frozen=True)
class SimilarityOptions:
    """How the contextual similarity is computed (Liao et al., ICML 2023, sections 3 and 4; the ablations of its table 5).

    Attributes:
        k: size of a neighbourhood, the item itself included; the query expansion uses k // 2. At least 2.
        epsilon: width, in squared distance, by which a neighbourhood reaches beyond its k-th neighbour. At least 0.
        slope: constant derivative of the heuristic step (the paper's alpha), used by `step="heuristic"` only.
        step: "heuristic" (0 or 1 forward, constant slope backward) or "sigmoid" (of x / temperature, both ways).
        temperature: of the sigmoid step, used by `step="sigmoid"` only.
        conjunction: what stands for a logical AND: "product" or "minimum".
        overlap: "both" (shared neighbours and shared non-neighbours), "shared" (the first alone), "none" (membership).
        query_expansion: average over the reciprocal k // 2 nearest neighbours, and symmetrise.
        detach_overlap_normalizer: no gradient through the neighbourhood sizes that the overlaps are divided by.
        detach_expansion_normalizer: no gradient through the number of reciprocal neighbours.

    Raises:
        ValueError: an option has the wrong type or lies outside of its range.
    """

    k: int = 4
    epsilon: float = 0.05
    slope: float = 10.0
    step: Step = "heuristic"
    temperature: float = 0.01
    conjunction: Conjunction = "product"
    overlap: Overlap = "both"
    query_expansion: bool = True
    detach_overlap_normalizer: bool = True
    detach_expansion_normalizer: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.k, bool) or not isinstance(self.k, Integral) or self.k < 2:
            raise ValueError(f"k must be a whole number of at least 2 (an item is its own neighbour), not {self.k!r}")
        check_number("epsilon", self.epsilon, minimum=0.0)
        check_positive("slope", self.slope)
        check_positive("temperature", self.temperature)
        check_choice("step", self.step, get_args(Step))
        check_choice("conjunction", self.conjunction, get_args(Conjunction))
        check_choice("overlap", self.overlap, get_args(Overlap))
        for name in ("query_expansion", "detach_overlap_normalizer", "detach_expansion_normalizer"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be true or false, not {getattr(self, name)!r}")

    @property
    def closed_form(self) -> bool:
        """Whether the hand-derived gradients (`dense`, `sparse`) cover these options."""
        return self.step == "heuristic" and self.conjunction == "product"

    def check_batch(self, items: int) -> None:
        """Raise ValueError where `items` embeddings are too few for neighbourhoods of size k."""
        if items < self.k:
            raise ValueError(
                f"the batch has {items} embedding{'s' if items != 1 else ''}, fewer than k = {self.k}: "
                "take larger batches (drop a partial last one) or a smaller k"
            )


@dataclass(frozen=True)
class HybridTerms:
    """What `hybrid_loss` computes: the weights of the three terms and their options.

    Raises:
        ValueError: a weight is negative or not finite, or a margin or target lies outside of [-1, 1].
    """

    options: SimilarityOptions
    contextual_weight: float
    contrastive_weight: float
    regularizer_weight: float
    positive_margin: float
    negative_margin: float
    similarity_target: float

    def __post_init__(self) -> None:
        for name in ("contextual_weight", "contrastive_weight", "regularizer_weight"):
            check_number(name, getattr(self, name), minimum=0.0)
        for name in ("positive_margin", "negative_margin", "similarity_target"):
            check_number(name, getattr(self, name), minimum=-1.0, maximum=1.0)
