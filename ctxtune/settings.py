"""The base of every settings model: immutable, and a key that nobody reads is an error."""

from collections.abc import Mapping
from typing import Any, Literal, NoReturn, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

REFUSED = "refused"
"""The type of the errors that `refuse` raises."""


class Settings(BaseModel):
    """One block of the config tree. Unknown keys, NaN and infinities are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _truth_is_no_number(cls, data: Any) -> Any:
        # Pydantic takes true for 1, and YAML takes yes and on for true: `epochs: yes` would train one epoch.
        for name, value in data.items() if isinstance(data, Mapping) else ():
            field = cls.model_fields.get(name) if isinstance(value, (bool, list, tuple)) else None
            if field is not None and _holds_stray_truth(value, field.annotation):
                refuse(cls, (name,), f"expected a number; found {str(value).lower()}")
        return data


def _holds_stray_truth(value: Any, annotation: Any) -> bool:
    """Whether true or false stands where the annotation knows numbers and nothing else."""
    if isinstance(value, (list, tuple)):
        return any(_holds_stray_truth(item, annotation) for item in value)
    if not isinstance(value, bool):
        return False
    kinds = _kinds(annotation)
    return bool(kinds & {int, float}) and kinds <= {int, float, Literal, type(None)}


def _kinds(annotation: object) -> set[object]:
    arguments = get_args(annotation)
    if not arguments:
        return {annotation if isinstance(annotation, type) else Literal}
    return {kind for argument in arguments if argument is not ... for kind in _kinds(argument)}


def refuse(model: type[BaseModel], location: tuple[str | int, ...], message: str) -> NoReturn:
    """For validators of a whole block: refuse one of its keys, so that the message has that key's place in the file.

    Args:
        location: the key, counted from the block.
        message: in words for the user; nothing is added to it.

    Raises:
        pydantic.ValidationError: always.
    """
    error = PydanticCustomError(REFUSED, "{message}", {"message": message})
    raise ValidationError.from_exception_data(model.__name__, [InitErrorDetails(type=error, loc=location, input=None)])
