"""The options of the contextual similarity, written once: for code, for settings files, and for the checks of both."""

import inspect
from collections.abc import Callable, Mapping
from typing import Literal, TypeVar

import numpy as np
from pydantic import Field, ValidationError

from ctxtune.error_messages import in_words
from ctxtune.losses.checks import check_number
from ctxtune.settings import Settings
from ctxtune.text import did_you_mean

Function = TypeVar("Function", bound=Callable[..., object])


class SimilarityOptions(Settings):
    """How the contextual similarity is computed (Liao et al., ICML 2023, sections 3 and 4; the ablations of its table 5).

    Attributes:
        k: size of a neighborhood, the item itself included; the query expansion uses k // 2. At least 2.
        epsilon: width, in squared distance, by which a neighborhood reaches beyond its k-th neighbor. At least 0.
        slope: constant derivative of the heuristic step (the paper's alpha), used by `step="heuristic"` only.
        step: "heuristic" (0 or 1 forward, constant slope backward) or "sigmoid" (of x / temperature, both ways).
        temperature: of the sigmoid step, used by `step="sigmoid"` only.
        conjunction: what stands for a logical AND: "product" or "minimum".
        overlap: "both" (shared neighbors and shared non-neighbors), "shared" (the first alone), "none" (membership).
        query_expansion: average over the reciprocal k // 2 nearest neighbors, and symmetrize.
        detach_overlap_normalizer: no gradient through the neighborhood sizes that the overlaps are divided by.
        detach_expansion_normalizer: no gradient through the number of reciprocal neighbors.
    """

    k: int = Field(4, ge=2, le=100_000)
    epsilon: float = Field(0.05, ge=0.0)
    slope: float = Field(10.0, gt=0.0)
    step: Literal["heuristic", "sigmoid"] = "heuristic"
    temperature: float = Field(0.01, gt=0.0)
    conjunction: Literal["product", "minimum"] = "product"
    overlap: Literal["both", "shared", "none"] = "both"
    query_expansion: bool = True
    detach_overlap_normalizer: bool = True
    detach_expansion_normalizer: bool = False

    @classmethod
    def of(cls, owner: str, given: Mapping[str, object]) -> "SimilarityOptions":
        """The options from keyword arguments of Python code: numbers as text, say, are refused.

        Args:
            owner: what takes the options, for the message.
            given: by name.

        Raises:
            TypeError: an option is not known.
            ValueError: an option has the wrong type or lies outside of its range.
        """
        for name in given:
            if name not in cls.model_fields:
                raise TypeError(f"unknown option of {owner}: {name!r}{did_you_mean(name, cls.model_fields)}")
        plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in given.items()}
        try:
            return cls.model_validate(plain, strict=True)
        except ValidationError as error:
            problems = error.errors(include_url=False)
            first = problems[0]["loc"]
            same = [problem for problem in problems if problem["loc"] == first]
            raise ValueError(f"{'.'.join(map(str, first))}: {in_words(same)}") from None

    @property
    def closed_form(self) -> bool:
        """Whether the gradients derived by hand (docs/contextual_loss.md) cover these options."""
        return self.step == "heuristic" and self.conjunction == "product"

    def check_batch(self, items: int) -> None:
        """Raise ValueError where `items` embeddings are too few for neighborhoods of size k."""
        if items < self.k:
            raise ValueError(
                f"the batch has {items} embedding{'s' if items != 1 else ''}, fewer than k = {self.k}: "
                "take larger batches (drop a partial last one) or a smaller k"
            )


def takes_similarity_options(function: Function) -> Function:
    """Show the options that `function` takes as `**options` in its signature (`help`, `inspect.signature`, editors).

    Parameters that `function` names itself keep their place; its `**` parameter stays if it is not called `options`.
    """
    signature = inspect.signature(function)
    own = list(signature.parameters.values())
    rest = own.pop()
    shown = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.annotation)
        for name, field in SimilarityOptions.model_fields.items()
        if name not in signature.parameters
    ]
    kept = [] if rest.name == "options" else [rest]
    setattr(function, "__signature__", signature.replace(parameters=[*own, *shown, *kept]))  # noqa: B010 - mypy
    return function


def contrastive_weight_of(contextual: float, contrastive: float | str | None, regularizer: float) -> float:
    """The weight of the contrastive term: `contrastive` if a number, or what the others leave of 1 (None, "remainder").

    Raises:
        ValueError: a weight is no finite number of at least 0.
    """
    check_number("contextual_weight", contextual, minimum=0.0)
    check_number("regularizer_weight", regularizer, minimum=0.0)
    if contrastive is None:
        weight, meaning = 1.0 - contextual, "1 - contextual_weight"
    elif contrastive == "remainder":
        weight, meaning = 1.0 - contextual - regularizer, "1 - contextual_weight - regularizer_weight"
    else:
        return check_number("contrastive_weight", contrastive, minimum=0.0)
    if weight < -1e-9:
        raise ValueError(
            f"contrastive_weight = {meaning} is {weight:g}, below 0 (contextual_weight {contextual:g}, "
            f"regularizer_weight {regularizer:g}): lower them, or set contrastive_weight"
        )
    return max(0.0, weight)
