"""`base: {best_of: SWEEP}`: the configuration that an earlier sweep chose by validation."""

from pathlib import Path
from typing import Any

import yaml

from ctxtune.config import BestOf, SweepConfig, resolve_trial
from ctxtune.config.load_ablation import FindBest
from ctxtune.config.search import TrackingSettings
from ctxtune.errors import ConfigError, TrackingError
from ctxtune.tracking import TrackedRun, best_runs, find_sweep, read_text
from ctxtune.tuning.record.results_folder import ABLATION_FILE
from ctxtune.tuning.search.warm_start import searched_values


def finder(root: Path, *, resume: bool) -> FindBest:
    """Who reads the best of a sweep; a resumed ablation keeps the base that it was started with.

    Args:
        root: the folder of all results.
    """

    def find(request: BestOf, data: dict[str, Any]) -> dict[str, Any]:
        stored = root / str(data.get("name")) / ABLATION_FILE
        if resume and stored.exists():
            tree = yaml.safe_load(stored.read_text(encoding="utf-8"))
            return {"trial": tree["trial"], "validation": tree["validation"]}
        tracking = data.get("tracking")
        uri = str(tracking.get("uri")) if isinstance(tracking, dict) and "uri" in tracking else TrackingSettings().uri
        return best_configuration(uri, request.best_of)

    return find


def best_configuration(uri: str, sweep: str) -> dict[str, Any]:
    """`trial` and `validation` of the configuration that a sweep chose, or of its best trial so far, by validation.

    Raises:
        TrackingError: there is no such sweep, or tracking cannot be read.
        ConfigError: it has no completed trial.
    """
    parent = find_sweep(uri, sweep)
    try:
        chosen = yaml.safe_load(read_text(uri, parent.run_id, "best.yaml"))
    except TrackingError:
        chosen = _best_so_far(uri, sweep, parent)
    return {"trial": chosen["trial"], "validation": chosen["validation"], "tracking": {"uri": uri}}


def _best_so_far(uri: str, sweep: str, parent: TrackedRun) -> dict[str, Any]:
    """Before a sweep has chosen: its best completed trial."""
    if parent.kind != "sweep":
        raise ConfigError(f"{sweep} is no sweep; only a sweep has a best configuration")
    space: dict[str, Any] = yaml.safe_load(read_text(uri, parent.run_id, "space.yaml"))
    stated = space["search"]["objective"]
    objective = stated[0] if isinstance(stated, list) else stated  # of several, the first one chooses
    runs = best_runs(uri, sweep, objective["metric"], objective["mode"], 1)
    if not runs:
        raise ConfigError(f"the sweep {sweep} has no completed trial with {objective['metric']}")
    known = SweepConfig.model_validate(space)
    trial = resolve_trial(known, searched_values(known, runs[0]))
    return {**space, "trial": trial.tree()}
