"""`tuned_with`: what earlier sweeps and ablations have already spent on an arm, read from MLflow."""

from ctxtune.config import Ablation
from ctxtune.errors import ConfigError, TrackingError
from ctxtune.reporting.study import read_study, run_of
from ctxtune.results.costs import hours_of
from ctxtune.results.designs import EarlierTuning
from ctxtune.results.runs import STAGES


def earlier_tuning(ablation: Ablation) -> tuple[EarlierTuning, ...]:
    """The runs and hours of each earlier sweep or ablation that the file names, by variant.

    Confirmations choose nothing and do not count. Of an earlier ablation with a variant of that name its runs alone count.

    Raises:
        ConfigError: MLflow has none of that name.
    """
    found = []
    for variant, names in ablation.tuned_with.items():
        for name in names:
            try:
                study = read_study(ablation.tracking.uri, name)
            except TrackingError as error:
                raise ConfigError(f"tuned_with.{variant}: {error}") from None
            tracked = [run for run in study.tracked if run.kind in STAGES and run.kind != "confirmation"]
            own = [run for run in tracked if run.tags.get("variant") == variant]
            runs = [run_of(run) for run in own or tracked]
            found.append(EarlierTuning(variant=variant, name=name, runs=len(runs), hours=hours_of(runs)))
    return tuple(found)
