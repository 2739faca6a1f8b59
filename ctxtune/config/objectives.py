"""What a file asks to be judged by must be something that its runs are going to measure."""

from collections.abc import Collection, Sequence

from pydantic import BaseModel

from ctxtune.config.paths import Location, get_path, leaves
from ctxtune.config.trial import TrialSettings
from ctxtune.settings import refuse
from ctxtune.text import did_you_mean

_OF_GPUS = ("gpu/memory_gib", "cost/gpu_hours", "cost/money")


def check_measured(
    model: type[BaseModel],
    block: Location,
    metrics: Sequence[str],
    trial: TrialSettings,
    *,
    searched: Collection[str] = (),
    gpus: str | float = "auto",
    price: float | None = None,
) -> None:
    """Refuse a Recall@K that is not evaluated, costs that no run has, and paths of the trial where no number stands.

    Args:
        model: the settings that hold the metrics.
        block: of the objective, counted from them; several metrics stand in a list.
        metrics: in the order of the file.
        trial: says what is evaluated.
        searched: paths that need not stand in the trial.
        gpus, price: of the `resources` block: what a run gets, and what an hour of one GPU costs.

    Raises:
        pydantic.ValidationError: at the metric's location.
    """
    for index, metric in enumerate(metrics):
        problem = _problem(metric, trial, gpus, price)
        if "/" not in metric and metric not in searched:
            problem = _no_number(metric, trial)
        if problem is not None:
            refuse(model, (*block, index, "metric") if len(metrics) > 1 else (*block, "metric"), problem)


def _problem(metric: str, trial: TrialSettings, gpus: str | float, price: float | None) -> str | None:
    recall_at = list(trial.evaluation.recall_at)
    said = metric.partition("/")[2]
    if said.startswith("recall_at_") and said not in [f"recall_at_{k}" for k in recall_at]:
        return f"{said} is not among trial.evaluation.recall_at {recall_at}"
    if metric in _OF_GPUS and gpus == 0:
        return f"{metric}: no run gets a GPU (resources.gpus is 0); take time/seconds"
    if metric == "cost/money" and price is None:
        return f"{metric} needs resources.price_per_gpu_hour, the price of an hour of one GPU"
    return None


def _no_number(path: str, trial: TrialSettings) -> str | None:
    numbers = {key: value for key, value in leaves(trial.tree()) if _is_number(value)}
    if path in numbers:
        return None
    try:
        found = f"; found {get_path(trial.tree(), path)!r}"
    except KeyError:
        found = did_you_mean(path, numbers)
    return f"the trial has no number at {path}{found}"


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
