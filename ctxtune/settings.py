"""The base of every settings model: immutable, and a key that nobody reads is an error."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """One block of the config tree. Unknown keys, NaN and infinities are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)
