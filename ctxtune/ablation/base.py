"""`base: {best_of: SWEEP}`: the configuration that an earlier sweep chose by validation."""

import os
from pathlib import Path

from pydantic import ValidationError

from ctxtune.config import BestOf, SweepConfig, resolve_trial
from ctxtune.config.load_ablation import FindBest
from ctxtune.config.sweep import TrackingSettings
from ctxtune.errors import ConfigError, TrackingError
from ctxtune.text import shortened
from ctxtune.tracking import TrackedRun, best_runs, find_sweep, read_text
from ctxtune.tuning.record.results_folder import ABLATION_FILE
from ctxtune.yaml_text import Tree, YamlError, parse_value


def finder(root: Path, *, resume: bool) -> FindBest:
    """Who reads the best of a sweep; a resumed ablation keeps the base that it was started with.

    Args:
        root: the folder of all results.
    """

    def find(request: BestOf, data: Tree) -> Tree:
        stored = root / str(data.get("name")) / ABLATION_FILE
        if resume and os.path.exists(stored):  # noqa: PTH110  # Path raises for names that are too long
            return _chosen(stored.read_text(encoding="utf-8"), str(stored))
        tracking = data.get("tracking")
        uri = str(tracking.get("uri")) if isinstance(tracking, dict) and "uri" in tracking else TrackingSettings().uri
        return best_configuration(uri, request.best_of)

    return find


def best_configuration(uri: str, sweep: str) -> dict[str, object]:
    """`trial` and `validation` of the configuration that a sweep chose, or of its best trial so far, by validation.

    Raises:
        TrackingError: there is no such sweep, or tracking cannot be read.
        ConfigError: it has no completed trial.
    """
    parent = find_sweep(uri, sweep)
    try:
        chosen = _chosen(read_text(uri, parent.run_id, "best.yaml"), f"best.yaml of {sweep}")
    except TrackingError:
        chosen = _best_so_far(uri, sweep, parent)
    return {"trial": chosen["trial"], "validation": chosen["validation"], "tracking": {"uri": uri}}


def _chosen(text: str, where: str) -> Tree:
    """`trial` and `validation` of a file that was written by a sweep or an ablation. Raises ConfigError."""
    try:
        tree = parse_value(text)
        return {"trial": tree["trial"], "validation": tree["validation"]}
    except (YamlError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{where}: not as it was written: no trial and validation can be read from it ({error})"
        ) from None


def _best_so_far(uri: str, sweep: str, parent: TrackedRun) -> Tree:
    """Before a sweep has chosen: its best completed trial."""
    if parent.kind != "sweep":
        raise ConfigError(f"{sweep} is no sweep; only a sweep has a best configuration")
    try:
        tree: Tree = parse_value(read_text(uri, parent.run_id, "space.yaml"))
        known = SweepConfig.model_validate(tree)
        stated = tree["search"]["objective"]
        objective = stated[0] if isinstance(stated, list) else stated  # of several, the first one chooses
    except (YamlError, ValidationError, KeyError, TypeError) as error:
        why = shortened(str(error).splitlines()[0], 200)
        raise ConfigError(f"space.yaml of {sweep} in MLflow: not as it was written ({why})") from None
    runs = best_runs(uri, sweep, objective["metric"], objective["mode"], 1)
    if not runs:
        raise ConfigError(f"the sweep {sweep} has no completed trial with {objective['metric']}")
    from ctxtune.tuning.search.warm_start import searched_values  # Optuna takes a second

    trial = resolve_trial(known, searched_values(known, runs[0]))
    return {**tree, "trial": trial.tree()}
