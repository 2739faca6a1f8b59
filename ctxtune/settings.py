"""The base of every settings model: immutable, and a key that nobody reads is an error."""

from typing import NoReturn

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

REFUSED = "refused"
"""The type of the errors that `refuse` raises."""


class Settings(BaseModel):
    """One block of the config tree. Unknown keys, NaN and infinities are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)


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
