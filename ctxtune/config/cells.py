"""The cells of an ablation, and what is said of one that cannot be."""

from dataclasses import dataclass

from ctxtune.config.trial import TrialSettings
from ctxtune.errors import ConfigError
from ctxtune.yaml_text import Tree


class ArmError(ConfigError):
    """An arm that cannot be run or says nothing; ``location`` is the key of the file that it comes from."""

    def __init__(self, location: tuple[str, ...], message: str) -> None:
        super().__init__(message)
        self.location = location


@dataclass(frozen=True)
class Cell:
    """One configuration of an ablation.

    Attributes:
        name: the arm's, with the levels of the factors: ``full, label_noise=0.2``.
        key: the same for file names and tracking keys; unique in the ablation.
        arm: the variant.
        levels: the level of each factor, by path.
        settings: all that is set in the trial, by path; levels included.
        trial: the resolved configuration, before any tuning.
    """

    name: str
    key: str
    arm: str
    levels: Tree
    settings: Tree
    trial: TrialSettings
