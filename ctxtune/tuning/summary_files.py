"""The file `best.yaml` of a sweep: the chosen configuration, as `train` and `ablate` take it."""

from ctxtune.config import SweepConfig
from ctxtune.results.formatting import setting
from ctxtune.tuning.record.journal import Journal
from ctxtune.tuning.stages import configuration
from ctxtune.yaml_text import write_yaml


def best_file(config: SweepConfig, journal: Journal, chosen: str | None) -> str:
    """The text of `best.yaml`.

    Args:
        chosen: the arm that the sweep decided on.

    Raises:
        ValueError: there is none.
    """
    if chosen is None:
        raise ValueError("no trial finished, so there is no best configuration")
    point, trial = configuration(config, journal, chosen)
    tree = {
        "name": f"{config.name}-best",
        "trial": trial.tree(),
        "validation": config.validation.model_dump(mode="json"),
        "tracking": config.tracking.model_dump(mode="json", exclude={"optuna"}),
    }
    header = (
        f"# The configuration that the sweep {config.name} chose ({chosen}, config {trial.hash()}).\n"
        f"# Searched values: {', '.join(f'{path} = {setting(value)}' for path, value in point.items())}\n"
    )
    return header + write_yaml(tree)
