"""What a sweep or an ablation may take: hours and GPU-hours."""

from pydantic import Field, PositiveFloat, PositiveInt

from ctxtune.settings import Settings

MOST_HOURS = 1e9
"""More than any cluster has; beyond it arithmetic ends before the budget does."""


class LimitSettings(Settings):
    """Limits of a whole sweep or ablation; whichever is met first counts."""

    hours: PositiveFloat | None = Field(
        None, le=MOST_HOURS, description="wall time of the whole, confirmation or seeds included"
    )
    gpu_hours: PositiveFloat | None = Field(None, le=MOST_HOURS)


class BudgetSettings(LimitSettings):
    """The `search.budget` block; whichever limit is met first ends the search, cleanly."""

    search_share: float = Field(
        0.6,
        gt=0,
        le=0.9,
        description="of the hours or GPU-hours: the least that the search gets before selection begins",
    )
    no_improvement_for: PositiveInt | None = Field(None, description="trials without a better score")
