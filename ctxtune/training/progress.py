"""Where a run stands."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Progress:
    """Where a run stands, for a display.

    Attributes:
        epoch: epochs done; ``batch`` of ``batches`` of the next one are done too.
        images_per_second: since the last evaluation.
        terms: the loss and its terms, their mean over the epoch so far.
    """

    epoch: int
    epochs: int
    images_per_second: float
    terms: dict[str, float]
    batch: int = 0
    batches: int = 1


@dataclass
class EvaluationInterval:
    """What was trained since the last evaluation."""

    images: int = 0
    seconds: float = 0.0
    terms: dict[str, float] = field(default_factory=dict)

    @property
    def images_per_second(self) -> float:
        """Over all of it."""
        return self.images / max(self.seconds, 1e-9)
